"""Plots of an evaluation: drawn by matplotlib, as SVG that takes colours and font from the page it stands in.

Series 0 is the first curve's colour and that of real volumes wherever they appear, series 1 that of generated ones.
"""

import dataclasses
import io
import math
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

WIDTH, HEIGHT = 360, 220  # of a plot; the page scales it to its column
SCORE_WIDTH, SCORE_HEIGHT, SCORE_MARGIN = 220, 36, 12
SERIES = {"real": 0, "generated": 1}
N_SERIES = 6  # then colours begin anew
# A user's own matplotlibrc does not count.
STYLE = ("default", pathlib.Path(__file__).parent / "templates" / "plots.mplstyle")
VARIABLES = {  # of report.css, which has other values of them for dark screens and for paper
    "#1a68ad": "var(--c0)",
    "#c04c12": "var(--c1)",
    "#3c7d3c": "var(--c2)",
    "#8a4fb0": "var(--c3)",
    "#8c6a00": "var(--c4)",
    "#b03a6b": "var(--c5)",
    "#fbfbf9": "var(--paper)",
    "#566069": "var(--quiet)",
    "#e7e9ea": "var(--grid)",
}
DECADES_FROM = 30.0  # an axis is logarithmic from this ratio of its largest value to its smallest
HISTOGRAM_DECADES = 4  # below the peak of a histogram on a logarithmic axis
SMOOTHED_FROM = 60  # points; shorter curves are drawn as they are
DRAWN_POINTS = 600  # of a longer curve: more than there are pixels add nothing
ROUND = (1, 2, 2.5, 5, 10)  # ticks are multiples of these
MINUS, TIMES, DASH = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EM DASH}"
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclasses.dataclass(frozen=True)
class Curve:
    """A named line: y over x, equally long; points that are not finite break it."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawn plot and what a page writes around it.

    Attributes:
      title: name of what is plotted.
      figure: matplotlib's.
      legend: names and the series whose colours they have.
      note: a line below, or "".
    """

    title: str
    figure: Figure
    legend: tuple[tuple[str, int], ...]
    note: str = ""


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


def line_plot(
    title: str, curves: Sequence[Curve], x_label: str, y_label: str = "", training: bool = False
) -> Plot | None:
    """Draws curves in one frame; None if there is no point to draw.

    Args:
      title: name of the plot.
      curves: in the order of the legend.
      x_label, y_label: names of the axes.
      training: whether these are losses and their like: the y axis is logarithmic if all are positive and span decades, and
        long curves are drawn faintly behind their running mean.
    """
    drawn = [(curve.name, *_arrays(curve)) for curve in curves]
    drawn = [(name, x, y) for name, x, y in drawn if np.isfinite(y).any()]
    if not drawn:
        return None
    ys = np.concatenate([y[np.isfinite(y)] for _, _, y in drawn])
    xs = np.concatenate([x[np.isfinite(y)] for _, x, y in drawn])
    log = training and ys.min() > 0 and ys.max() > DECADES_FROM * ys.min()
    legend, windows = [], set()
    with style.context(list(STYLE)):
        axes = _frame(x_label, y_label + " (logarithmic)" * bool(log and y_label))
        for i, (name, x, y) in enumerate(drawn):
            series = SERIES.get(name, i) % N_SERIES
            window = len(y) // 50 * 2 + 1 if training and len(y) >= SMOOTHED_FROM else 0
            if window:
                windows.add(window)
                axes.plot(*thinned(x, y), color=f"C{series}", linewidth=1, alpha=0.3, clip_on=False)
                y = running_mean(y, window)
            marked = {"marker": "o", "markersize": 5, "markeredgewidth": 0} if len(y) < SMOOTHED_FROM // 2 else {}
            axes.plot(*thinned(x, y), color=f"C{series}", clip_on=False, **marked)
            legend.append((name, series))
        axes.set_xlim(xs.min(), xs.max() + (np.ptp(xs) == 0))
        if log:
            _set_log(axes, ys.min(), ys.max())
    note = f"Faint: as logged. Firm: running mean of {' or '.join(map(str, sorted(windows)))}." if windows else ""
    return Plot(title, axes.figure, tuple(legend), note)


def histogram_plot(title: str, histograms: Mapping[str, tuple[np.ndarray, np.ndarray]], x_label: str) -> Plot | None:
    """Draws histograms, name -> (edges [k + 1], density [k]), over each other; None if there is none.

    Scans are mostly background: where its peak would flatten all else, the y axis is logarithmic.
    """
    found = {name: (np.asarray(edges, float), np.nan_to_num(density)) for name, (edges, density) in histograms.items()}
    positive = np.concatenate([density[density > 0] for _, density in found.values()] or [np.empty(0)])
    if not len(positive):
        return None
    peak = positive.max()
    log = peak > DECADES_FROM * np.median(positive)
    legend = []
    with style.context(list(STYLE)):
        axes = _frame(x_label, "density" + " (logarithmic)" * bool(log))
        for i, (name, (edges, density)) in enumerate(found.items()):
            series = SERIES.get(name, i) % N_SERIES
            colour = f"C{series}"
            filled = {"fill": True, "facecolor": (colour, 0.22), "linewidth": 1.2} if i == 0 else {"linewidth": 2.0}
            axes.stairs(density, edges, edgecolor=colour, **filled)
            legend.append((name, series))
        edges = np.concatenate([edges for edges, _ in found.values()])
        axes.set_xlim(edges.min(), edges.max())
        if log:
            _set_log(axes, max(positive.min(), peak / 10**HISTOGRAM_DECADES), peak)
    return Plot(title, axes.figure, tuple(legend))


def score_plot(
    value: float | None, low: float | None, high: float | None, baseline: float | None, direction: str
) -> Figure | None:
    """Draws a value with its interval, and the baseline, on one scale; None where there is nothing to hold the value against.

    A share is shown on the scale of all shares, a distance from zero on, and what is best like real near its baseline.
    """
    interval = is_finite(low) and is_finite(high)
    baseline = baseline if is_finite(baseline) else None
    if not is_finite(value) or (baseline is None and not interval):
        return None
    shown = [each for each in (value, baseline, *((low, high) if interval else ())) if each is not None]
    first, last = _ends(min(shown), max(shown), direction)
    with style.context(list(STYLE)):
        figure = Figure(figsize=(SCORE_WIDTH / 72, SCORE_HEIGHT / 72))
        margin = SCORE_MARGIN / SCORE_WIDTH
        axes = figure.add_axes((margin, 0, 1 - 2 * margin, 1), xlim=(first, last), ylim=(-24, 12))
        axes.spines.bottom.set_position(("data", 0))
        axes.yaxis.set_visible(False)
        axes.set_xticks([first, last], [number(first), number(last)])
        axes.tick_params(length=8, direction="inout", pad=4)
        for label, side in zip(axes.get_xticklabels(), ("left", "right"), strict=True):
            label.set_horizontalalignment(side)
        mark = {"linestyle": "none", "markeredgewidth": 1, "clip_on": False, "zorder": 3}
        if baseline is not None:
            axes.plot(baseline, 0, marker="d", markersize=11.3, color="C0", **mark)
        if interval:
            axes.plot([low, high], [0, 0], color="C1", clip_on=False, zorder=3)
        axes.plot(value, 0, marker="o", markersize=9, color="C1", **mark)
    return figure


def drawing(figure: Figure, of: str) -> str:
    """Renders a figure as what stands inside of an <svg> of a page: in the page's colours and font.

    Nothing is fetched. Figures of the same numbers give the same text when they are first drawn.

    Args:
      figure: made by a function above.
      of: what no other plot of the page is of, for names inside the drawing.
    """
    file = io.StringIO()
    with style.context([*STYLE, {"svg.hashsalt": of}]):
        figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would be for all of the page
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # "figure_1" in every plot
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: VARIABLES.get(found[0], found[0]), text)


def view_box(figure: Figure) -> str:
    """Writes the size of a figure as an <svg> has it."""
    width, height = figure.get_size_inches() * figure.dpi
    return f"0 0 {width:g} {height:g}"


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


def _frame(x_label: str, y_label: str) -> Axes:
    """Makes grid, ticks and labels. The y label stands above the axis, where nobody has to tilt the head."""
    axes = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained").add_subplot()
    axes.grid(axis="y")
    axes.set_xlabel(x_label)
    axes.set_title(y_label)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=ROUND))
        axis.set_major_formatter(FuncFormatter(lambda tick, _: number(tick, 6)))
    return axes


def _set_log(axes: Axes, low: float, high: float) -> None:
    """Makes the y axis logarithmic from `low` to `high`; ticks at powers of ten, with few of them at 2 and 5 too."""
    formatter = axes.yaxis.get_major_formatter()
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if math.log10(high / low) > 2.5 else (1, 2, 5), numticks=7))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(formatter)
    axes.set_ylim(low, high)


def _ends(least: float, most: float, direction: str) -> tuple[float, float]:
    """Chooses round ends of a score's scale for what is shown on it."""
    if direction == "more" and least >= 0 and most <= 1:
        return 0.0, 1.0
    if direction == "like real":
        margin = 0.1 * ((most - least) or abs(most) or 1.0)
        least, most = least - margin, most + margin
    else:
        least, most = min(0.0, least), max(0.0, most)
    first, *_, last = MaxNLocator(3, steps=ROUND).tick_values(least, most if most > least else 1.0)
    return first, last


def _arrays(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """float64 x and y; y is NaN wherever either is not finite."""
    x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
    finite = np.isfinite(x) & np.isfinite(y)
    return np.where(finite, x, 0.0), np.where(finite, y, np.nan)
