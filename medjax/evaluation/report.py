"""The page of an evaluation: one HTML file that opens offline, with every number beside its baseline."""

import base64
import dataclasses
import html
import io
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from medjax.evaluation.plots import Curve, histogram_plot, is_finite, line_plot, number, score_plot
from medjax.evaluation.score import Score
from medjax.runtime.workdir import written_aside

DIRECTIONS = {"less": "↓ less is better", "more": "↑ more is better", "like real": "≈ best when like real"}
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
# What is not in the file is refused by the browser itself.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = pathlib.Path(__file__).parent / "templates" / "report.css"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that the page shows; what is empty is left out.

    Attributes:
      title, subtitle: what is held against what.
      facts: backbone, versions, date, config, checkpoint step, sampler, files.
      scores: in the order of the page. The value of one named "copies" is a number of generated volumes.
      notes: warnings: few volumes, features not comparable with published numbers, fewer scales than five, ...
      histograms: of intensities, "real" and "generated" -> (edges [k + 1], density [k]).
      consistency: "axial", ... -> {"real": [slices - 1], "generated": ...}, mean correlation of neighbouring slices.
      training: curves of metrics.jsonl; `val_` and the same name share a plot.
      pictures: caption -> picture: montages of real and of generated volumes, closest pairs.
    """

    title: str
    subtitle: str
    facts: Mapping[str, str]
    scores: Sequence[Score]
    notes: Sequence[str]
    histograms: Mapping[str, tuple[np.ndarray, np.ndarray]]
    consistency: Mapping[str, Mapping[str, np.ndarray]]
    training: Sequence[Curve]
    pictures: Mapping[str, Image.Image]


def write_report(path: pathlib.Path, evaluation: Evaluation) -> None:
    """Writes the page, whole or not at all; the same evaluation gives the same bytes."""
    with written_aside(path) as aside:
        aside.write_bytes(page(evaluation).encode("utf-8", errors="replace"))  # file names may hold any bytes


def page(evaluation: Evaluation) -> str:
    """The whole HTML document."""
    title = html.escape(evaluation.title)
    parts = [
        f'<header><h1>{title}</h1><p class="subtitle">{html.escape(evaluation.subtitle)}</p></header>',
        copies_box(evaluation.scores),
        notes_box(evaluation.notes),
        section("Scores", score_table(evaluation.scores)),
        section("Intensities", in_grid([histogram_plot("Histogram", evaluation.histograms, "intensity")])),
        section("Consistency between slices", consistency_plots(evaluation.consistency)),
        section("Training", training_plots(evaluation.training)),
        section("Pictures", "".join(picture(caption, image) for caption, image in evaluation.pictures.items())),
        section("What was evaluated, and how", facts_list(evaluation.facts)),
    ]
    body = "\n".join(part for part in parts if part)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def section(heading: str, content: str) -> str:
    """A part of the page under its heading; "" where it has no content."""
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>" if content else ""


def copies_box(scores: Sequence[Score]) -> str:
    """Says first what matters most: that generated volumes repeat training volumes. "" where none was flagged."""
    found = [score for score in scores if score.name == "copies" and is_positive(score.value)]
    if not found:
        return ""
    score = found[0]
    of = f" of {score.n_generated}" if score.n_generated is not None else ""
    return (
        f'<div class="box copies"><h2>{number(score.value)}{of} generated volumes are flagged as '
        f"copies</h2><p>{html.escape(score.how)} Look at the closest pairs before sharing any generated "
        "volume.</p></div>"
    )


def notes_box(notes: Sequence[str]) -> str:
    """Writes what to know before reading a number."""
    if not notes:
        return ""
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return f'<div class="box notes"><h2>Before reading the numbers</h2><ul>{items}</ul></div>'


def score_table(scores: Sequence[Score]) -> str:
    """A table with one body a score; on a phone each becomes a card."""
    if not scores:
        return ""
    headers = "".join(f'<th scope="col">{name}</th>' for name in ("Score", "Value", "Real against real", "n"))
    return (
        '<p class="key"><span class="name"><i class="swatch dot series-1"></i>generated, with its 95 % interval</span>'
        '<span class="name"><i class="swatch diamond series-0"></i>real against real</span></p>'
        f'<table><thead><tr>{headers}<th scope="col">On one scale</th></tr></thead>'
        f"{''.join(map(score_rows, scores))}</table>"
    )


def score_rows(score: Score) -> str:
    """The numbers of one score, and below them how it was computed."""
    low, high = score.low, score.high
    if is_finite(low) and is_finite(high):
        spread = f"95 % interval {number(low, 3)} to {number(high, 3)}"
    elif is_finite(score.error) and is_finite(score.value):
        spread = f"± {number(score.error, 2)} (standard error)"
        low, high = score.value - 1.96 * score.error, score.value + 1.96 * score.error
    else:
        spread = ""
    if is_finite(score.p_value):
        tested = f"p = {number(score.p_value, 2)} if both were of one distribution"
        spread = f"{spread}; {tested}" if spread else tested
    direction = DIRECTIONS.get(score.direction, score.direction)
    sides = {"real": score.n_real, "generated": score.n_generated}
    counts = "".join(f'<span class="small">{n} {side}</span>' for side, n in sides.items() if n is not None)
    flagged = ' class="flagged"' if score.name == "copies" and is_positive(score.value) else ""
    return (
        f'<tbody{flagged}><tr><th scope="row">{html.escape(score.title)}'
        f'<span class="direction">{html.escape(direction)}</span></th>'
        f'<td data-label="Value"><span class="value">{with_unit(score.value, score.unit)}</span>{small(spread)}</td>'
        f'<td data-label="Real against real"><span class="baseline">{with_unit(score.baseline, score.unit)}</span>'
        f'{small(score.baseline_of)}</td><td class="n" data-label="n">{counts or number(None)}</td>'
        f'<td class="scale">{score_plot(score.value, low, high, score.baseline, score.direction)}</td></tr>'
        f'<tr><td class="how" colspan="5"><p>{html.escape(score.how)}</p></td></tr></tbody>'
    )


def consistency_plots(consistency: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """One plot a direction. Sets of different shapes meet on one axis: how far through the volume, in percent."""
    plots = []
    for name, curves in consistency.items():
        spaced = [Curve(of, (np.arange(len(y)) + 1) / (len(y) + 1) * 100, y) for of, y in curves.items()]
        plots.append(line_plot(name, spaced, "% of the way through the volume", "mean correlation"))
    if not any(plots):
        return ""
    told = "How alike neighbouring slices are, from one end of the volume to the other."
    return f"<p>{told} Where the generated ones alone dip, look for a seam.</p>{in_grid(plots)}"


def training_plots(training: Sequence[Curve]) -> str:
    """One plot a quantity: `loss` and `val_loss` together."""
    quantities: dict[str, list[Curve]] = {}
    for curve in training:
        quantities.setdefault(curve.name.removeprefix("val_"), []).append(curve)
    return in_grid([line_plot(name, curves, "step", training=True) for name, curves in quantities.items()])


def in_grid(plots: Sequence[str]) -> str:
    """Lays as many plots side by side as the screen is wide; "" if there are none."""
    return f'<div class="plots">{"".join(plots)}</div>' if any(plots) else ""


def picture(caption: str, image: Image.Image) -> str:
    """A picture inside the page, lossless."""
    buffer = io.BytesIO()
    image = image if image.mode in PNG_MODES else image.convert("RGB")
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return (
        f'<figure class="picture"><figcaption>{text}</figcaption><img src="data:image/png;base64,{data}" '
        f'width="{image.width}" height="{image.height}" alt="{text}"></figure>'
    )


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and values; "" if there are none."""
    items = "".join(f"<dt>{html.escape(name)}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl>{items}</dl>" if items else ""


def with_unit(value: float | None, unit: str) -> str:
    """A number and its unit, which a line break does not part; a dash without any where there is no value."""
    return f"{number(value)}&nbsp;{html.escape(unit)}" if unit and is_finite(value) else number(value)


def small(text: str) -> str:
    return f'<span class="small">{html.escape(text)}</span>' if text else ""


def is_positive(value: float | None) -> bool:
    return is_finite(value) and value > 0
