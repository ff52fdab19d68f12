"""The page of an evaluation: one HTML file that opens offline, with every number beside its baseline."""

import base64
import dataclasses
import io
import pathlib
from collections.abc import Mapping, Sequence

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from medjax.evaluation.plots import (
    Curve,
    Plot,
    drawing,
    histogram_plot,
    is_finite,
    line_plot,
    number,
    score_plot,
    view_box,
)
from medjax.evaluation.score import Score
from medjax.runtime.workdir import written_aside

DIRECTIONS = {"less": "↓ less is better", "more": "↑ more is better", "like real": "≈ best when like real"}
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")
TEMPLATES = pathlib.Path(__file__).parent / "templates"


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


@dataclasses.dataclass(frozen=True)
class Row:
    """A score as the table shows it.

    Attributes:
      score: the number and all that belongs to it.
      direction: which way is better, in words.
      spread: interval, standard error or p-value, in words; "" where there is none.
      counts: volumes on either side that takes part.
      flagged: whether it says that generated volumes are copies.
      plot: value and baseline on one scale; None where there is nothing to hold the value against.
    """

    score: Score
    direction: str
    spread: str
    counts: Mapping[str, int]
    flagged: bool
    plot: Figure | None


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture inside the page: its caption, its data as a URL, and its size in pixels."""

    caption: str
    source: str
    width: int
    height: int


def write_report(path: pathlib.Path, evaluation: Evaluation) -> None:
    """Writes the page, whole or not at all; the same evaluation gives the same bytes."""
    with written_aside(path) as aside:
        aside.write_bytes(page(evaluation).encode("utf-8", errors="replace"))  # file names may hold any bytes


def page(evaluation: Evaluation) -> str:
    """Makes the whole HTML document; what is empty has no heading."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"number": number, "is_finite": is_finite, "drawing": drawing, "view_box": view_box}
    return environment.get_template("report.html.jinja").render(
        title=evaluation.title,
        subtitle=evaluation.subtitle,
        facts=evaluation.facts,
        notes=evaluation.notes,
        rows=[row_of(score) for score in evaluation.scores],
        histograms=drawn([histogram_plot("Histogram", evaluation.histograms, "intensity")]),
        consistency=consistency_plots(evaluation.consistency),
        training=training_plots(evaluation.training),
        pictures=[picture_of(caption, image) for caption, image in evaluation.pictures.items()],
    )


def row_of(score: Score) -> Row:
    """Prepares a score for the table."""
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
    sides = {"real": score.n_real, "generated": score.n_generated}
    return Row(
        score=score,
        direction=DIRECTIONS.get(score.direction, score.direction),
        spread=spread,
        counts={side: n for side, n in sides.items() if n is not None},
        flagged=score.name == "copies" and is_finite(score.value) and score.value > 0,
        plot=score_plot(score.value, low, high, score.baseline, score.direction),
    )


def consistency_plots(consistency: Mapping[str, Mapping[str, np.ndarray]]) -> list[Plot]:
    """Draws one plot a direction. Sets of different shapes meet on one axis: how far through the volume, in percent."""
    plots = []
    for name, curves in consistency.items():
        spaced = [Curve(of, (np.arange(len(y)) + 1) / (len(y) + 1) * 100, y) for of, y in curves.items()]
        plots.append(line_plot(name, spaced, "% of the way through the volume", "mean correlation"))
    return drawn(plots)


def training_plots(training: Sequence[Curve]) -> list[Plot]:
    """Draws one plot a quantity: `loss` and `val_loss` together."""
    quantities: dict[str, list[Curve]] = {}
    for curve in training:
        quantities.setdefault(curve.name.removeprefix("val_"), []).append(curve)
    return drawn([line_plot(name, curves, "step", training=True) for name, curves in quantities.items()])


def drawn(plots: Sequence[Plot | None]) -> list[Plot]:
    """Leaves out the plots that have nothing to show."""
    return [plot for plot in plots if plot]


def picture_of(caption: str, image: Image.Image) -> Picture:
    """Puts a picture into a URL, lossless."""
    buffer = io.BytesIO()
    image = image if image.mode in PNG_MODES else image.convert("RGB")
    image.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return Picture(caption, f"data:image/png;base64,{data}", image.width, image.height)
