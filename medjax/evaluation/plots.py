"""Plots as inline SVG: pure functions from numbers to text, in colours that the page's style sheet gives to its classes.

`series-0` is the first curve's colour and that of real volumes wherever they appear, `series-1` that of generated ones.
"""

import dataclasses
import html
import math
from collections.abc import Mapping, Sequence

import numpy as np

WIDTH, HEIGHT = 360, 220
TOP, RIGHT, BOTTOM = 22, 20, 40  # margins; the left one is as wide as the labels need
LETTER = 6.6  # width of a character of a label, about
SCORE_WIDTH, SCORE_HEIGHT, SCORE_MARGIN = 220, 36, 12
SERIES = {"real": 0, "generated": 1}
DECADES_FROM = 30.0  # an axis is logarithmic from this ratio of its largest value to its smallest
HISTOGRAM_DECADES = 4  # below the peak of a histogram on a logarithmic axis
SMOOTHED_FROM = 60  # points; shorter curves are drawn as they are
DRAWN_POINTS = 600  # of a longer curve: more than there are pixels add nothing
MINUS, TIMES, DASH = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EM DASH}"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A named line: y over x, equally long; points that are not finite break it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Axis:
    """Maps [low, high] onto pixels; `ticks` are the values that get a label."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def pixels(self, values: np.ndarray, start: float, end: float) -> np.ndarray:
        """Places `values` when `low` is drawn at `start` and `high` at `end`; beyond them they stay at the edge."""
        scale = np.log10 if self.log else np.asarray
        inside = np.clip(values, self.low, self.high)
        return start + (scale(inside) - scale(self.low)) / (scale(self.high) - scale(self.low)) * (end - start)


def number(value: float | None, digits: int = 4) -> str:
    """To `digits` significant figures, without an exponent where people would write none; a dash for None and NaN."""
    if not is_finite(value):
        return DASH
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 6:
        text = f"{value:.{max(digits - 1 - exponent, 0)}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        text = f"{mantissa} {TIMES} 10{str(int(power)).translate(SUPERSCRIPTS)}"
    return text.replace("-", MINUS)


def is_finite(value: float | None) -> bool:
    """Whether there is a number to show."""
    return value is not None and math.isfinite(value)


def line_plot(title: str, curves: Sequence[Curve], x_label: str, y_label: str = "", training: bool = False) -> str:
    """Curves in one frame, as an HTML figure with its legend; "" if there is no point to draw.

    Args:
      training: these are losses and their like: the y axis is logarithmic if all are positive and span decades, and long curves
        are drawn faintly behind their running mean.
    """
    drawn = [(curve.name, *_arrays(curve)) for curve in curves]
    drawn = [(name, x, y) for name, x, y in drawn if np.isfinite(y).any()]
    if not drawn:
        return ""
    ys = np.concatenate([y[np.isfinite(y)] for _, _, y in drawn])
    xs = np.concatenate([x[np.isfinite(y)] for _, x, y in drawn])
    log = training and ys.min() > 0 and ys.max() > DECADES_FROM * ys.min()
    x_axis = dataclasses.replace(linear_axis(xs.min(), xs.max(), 5), low=xs.min(), high=xs.max() + (np.ptp(xs) == 0))
    y_axis = log_axis(ys.min(), ys.max()) if log else linear_axis(ys.min(), ys.max(), 5)
    left = _left(y_axis)
    paths, legend, windows = [], [], set()
    for i, (name, x, y) in enumerate(drawn):
        series = _series(name, i)
        px = x_axis.pixels(x, left, WIDTH - RIGHT)
        window = len(y) // 50 * 2 + 1 if training and len(y) >= SMOOTHED_FROM else 0
        if window:
            windows.add(window)
            paths.append(_path(*thinned(px, y_axis.pixels(y, HEIGHT - BOTTOM, TOP)), f"line raw {series}"))
            y = running_mean(y, window)
        py = y_axis.pixels(y, HEIGHT - BOTTOM, TOP)
        paths.append(_path(*thinned(px, py), f"line {series}"))
        if len(y) < SMOOTHED_FROM // 2:
            paths += [_dot(*point, series) for point in zip(px, py, strict=True) if np.isfinite(point).all()]
        legend.append((name, series))
    note = f"Faint: as logged. Firm: running mean of {' or '.join(map(str, sorted(windows)))}." if windows else ""
    said = y_label + (" (logarithmic)" if log and y_label else "")
    return _figure(title, _svg(_frame(x_axis, y_axis, left, x_label, said), paths, title), legend, note)


def histogram_plot(title: str, histograms: Mapping[str, tuple[np.ndarray, np.ndarray]], x_label: str) -> str:
    """Histograms, name -> (edges [k + 1], density [k]), over each other as an HTML figure; "" if there is none.

    Scans are mostly background: where its peak would flatten all else, the y axis is logarithmic.
    """
    found = {name: (np.asarray(edges, float), np.nan_to_num(density)) for name, (edges, density) in histograms.items()}
    positive = np.concatenate([density[density > 0] for _, density in found.values()] or [np.empty(0)])
    if not len(positive):
        return ""
    edges = np.concatenate([edges for edges, _ in found.values()])
    peak = positive.max()
    log = peak > DECADES_FROM * np.median(positive)
    x_axis = dataclasses.replace(linear_axis(edges.min(), edges.max(), 5), low=edges.min(), high=edges.max())
    floor = max(positive.min(), peak / 10**HISTOGRAM_DECADES)
    y_axis = log_axis(floor, peak) if log else linear_axis(0.0, peak, 5)
    left = _left(y_axis)
    paths, legend = [], []
    for i, (name, (edges, density)) in enumerate(found.items()):
        series = _series(name, i)
        x = np.repeat(edges, 2)
        y = np.concatenate([[0.0], np.repeat(density, 2), [0.0]])
        px, py = x_axis.pixels(x, left, WIDTH - RIGHT), y_axis.pixels(y, HEIGHT - BOTTOM, TOP)
        paths.append(_path(px, py, f"{'area ' if i == 0 else ''}line {series}"))
        legend.append((name, series))
    label = f"density{' (logarithmic)' if log else ''}"
    return _figure(title, _svg(_frame(x_axis, y_axis, left, x_label, label), paths, title), legend, "")


def score_plot(
    value: float | None, low: float | None, high: float | None, baseline: float | None, direction: str
) -> str:
    """A value with its interval, and the baseline, on one scale; "" where there is nothing to hold the value against.

    The scale begins at zero, and is 0 to 1 for shares, but for what should be "like real": there only the difference counts.
    """
    value, low, high, baseline = (
        v if v is not None and math.isfinite(v) else None for v in (value, low, high, baseline)
    )
    interval = low is not None and high is not None
    if value is None or (baseline is None and not interval):
        return ""
    shown = [v for v in (value, low, high, baseline) if v is not None]
    least, most = min(shown), max(shown)
    if direction == "more" and least >= 0 and most <= 1:
        axis = Axis(0.0, 1.0, (0.0, 1.0))
    elif direction == "like real":
        axis = linear_axis(least - 0.1 * (most - least), most + 0.1 * (most - least), 3)
    else:
        axis = linear_axis(min(0.0, least), max(0.0, most), 3)
    start, end, y = SCORE_MARGIN, SCORE_WIDTH - SCORE_MARGIN, 12

    def at(v: float) -> str:
        return _short(float(axis.pixels(np.asarray(v), start, end)))

    parts = [f'<path class="axis" d="M{start} {y}H{end}M{start} {y - 4}v8M{end} {y - 4}v8"/>']
    if baseline is not None:
        parts.append(f'<path class="mark series-0" d="M{at(baseline)} {y - 8}l5 8l-5 8l-5 -8z"/>')
    if interval:
        parts.append(f'<path class="line series-1" d="M{at(low)} {y}H{at(high)}"/>')
    parts.append(f'<circle class="mark series-1" cx="{at(value)}" cy="{y}" r="4.5"/>')
    parts.append(f'<text x="{start - 4}" y="{SCORE_HEIGHT - 3}">{number(axis.low)}</text>')
    parts.append(f'<text x="{end + 4}" y="{SCORE_HEIGHT - 3}" text-anchor="end">{number(axis.high)}</text>')
    # Screen readers hear the numbers from the cells beside it.
    return f'<svg class="score" viewBox="0 0 {SCORE_WIDTH} {SCORE_HEIGHT}" aria-hidden="true">{"".join(parts)}</svg>'


def linear_axis(low: float, high: float, count: int) -> Axis:
    """Makes an axis from a round number at or below `low` to one at or above `high`, with about `count` ticks."""
    if low == high:
        low, high = (low - abs(low) / 10, high + abs(high) / 10) if low else (0.0, 1.0)
    rough = (high - low) / count
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return Axis(first * step, last * step, tuple(i * step for i in range(first, last + 1)))


def log_axis(low: float, high: float) -> Axis:
    """Makes a logarithmic axis from `low` to `high`, both positive; ticks at powers of ten, with few of them at 2 and 5 too."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = math.log10(high / low) > 2.5
    ticks = [factor * 10.0**power for power in decades for factor in ((1,) if wide else (1, 2, 5))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return Axis(low, high, tuple(ticks[:: max(1, len(ticks) // 6)]), log=True)


def running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Mean of the finite values among the `window` around each, an odd number, fewer at the ends; NaN where y is not finite."""
    kernel = np.ones(window)
    finite = np.isfinite(y)
    sums = np.convolve(np.where(finite, y, 0.0), kernel)
    counts = np.convolve(finite.astype(float), kernel)
    middle = slice(window // 2, window // 2 + len(y))
    return np.where(finite, sums[middle] / np.maximum(counts[middle], 1.0), np.nan)


def thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most about `DRAWN_POINTS` of a curve: of every stretch its lowest and its highest point, so that no spike is lost."""
    if len(y) <= DRAWN_POINTS:
        return x, y
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(y)), DRAWN_POINTS // 2):
        finite = stretch[np.isfinite(y[stretch])]
        kept += sorted({finite[y[finite].argmin()], finite[y[finite].argmax()]}) if len(finite) else [stretch[0]]
    return x[kept], y[kept]


def _arrays(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """float64 x and y; y is NaN wherever either is not finite."""
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    finite = np.isfinite(x) & np.isfinite(y)
    return np.where(finite, x, 0.0), np.where(finite, y, np.nan)


def _left(y_axis: Axis) -> float:
    return 12 + LETTER * max(len(number(tick, 6)) for tick in y_axis.ticks)


def _series(name: str, i: int) -> str:
    return f"series-{SERIES.get(name, i) % 6}"


def _short(pixel: float) -> str:
    return f"{pixel:.1f}".removesuffix(".0")


def _dot(x: float, y: float, series: str) -> str:
    return f'<circle class="mark {series}" cx="{_short(x)}" cy="{_short(y)}" r="2.5"/>'


def _path(x: np.ndarray, y: np.ndarray, classes: str) -> str:
    """A line through the points, broken where they are not finite."""
    commands, pen = [], "M"
    for point in zip(x, y, strict=True):
        if np.isfinite(point).all():
            commands.append(f"{pen}{_short(point[0])} {_short(point[1])}")
            pen = "L"
        else:
            pen = "M"
    return f'<path class="{classes}" d="{"".join(commands)}"/>'


def _frame(x_axis: Axis, y_axis: Axis, left: float, x_label: str, y_label: str) -> list[str]:
    """Grid, ticks and labels. The y label stands above the axis, where nobody has to tilt the head."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick, y in zip(y_axis.ticks, y_axis.pixels(np.asarray(y_axis.ticks), bottom, TOP), strict=True):
        parts.append(f'<path class="grid" d="M{_short(left)} {_short(y)}H{right}"/>')
        parts.append(f'<text x="{_short(left - 6)}" y="{_short(y + 4)}" text-anchor="end">{number(tick, 6)}</text>')
    for tick in x_axis.ticks:
        if x_axis.low <= tick <= x_axis.high:
            x = _short(float(x_axis.pixels(np.asarray(tick), left, right)))
            parts.append(f'<path class="axis" d="M{x} {bottom}v4"/>')
            parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{number(tick, 6)}</text>')
    parts.append(f'<path class="axis" d="M{_short(left)} {bottom}H{right}"/>')
    middle = _short((left + right) / 2)
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    parts.append(f'<text x="{_short(left)}" y="12">{html.escape(y_label)}</text>')
    return parts


def _svg(frame: Sequence[str], paths: Sequence[str], title: str) -> str:
    described = html.escape(f"Plot: {title}")
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{described}">'
        f"{''.join(frame)}{''.join(paths)}</svg>"
    )


def _figure(title: str, svg: str, legend: Sequence[tuple[str, str]], note: str) -> str:
    names = "".join(
        f'<span class="name"><i class="swatch {series}"></i>{html.escape(name)}</span>' for name, series in legend
    )
    names = "" if [name for name, _ in legend] == [title] else f'<p class="legend">{names}</p>'
    small = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f'<figure class="plot"><figcaption>{html.escape(title)}</figcaption>{names}{svg}{small}</figure>'
