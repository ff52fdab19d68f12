"""Prepares what a report shows besides numbers: where samples come from, histograms, consistency, curves, pictures."""

import pathlib
from typing import Any

import numpy as np

from medjax.evaluation.plots import Curve
from medjax.evaluation.volume_sets import Sets
from medjax.metrics.consistency import adjacent_correlations, mean_by_slice
from medjax.pictures import montage
from medjax.runtime.metrics_log import read_rows
from medjax.runtime.workdir import read_json

BINS = 64
PICTURES_A_ROW, MOST_PICTURES = 4, 16
AXES = ("first axis", "second axis", "third axis")
TRAINING_CURVES = ("loss", "val_loss")


def run_facts(workdir: pathlib.Path) -> dict[str, str]:
    """Returns what made the samples."""
    settings = read_json(workdir / "samples" / "settings.json")
    return {"run": str(workdir), "checkpoint": f"step {settings.get('step')}"} | {
        f"sample.{key}": str(settings[key]) for key in ("sampler", "steps", "seed", "guidance") if key in settings
    }


def histograms(sets: Sets) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Densities of intensities in [-1, 1] without the outermost bins, where background and clipped voxels lie."""
    edges = np.linspace(-1, 1, BINS + 1)
    found = {}
    for name, each in (("real", sets.real), ("generated", sets.generated)):
        counts = np.histogram(each.volumes, edges)[0][1:-1]
        found[name] = (edges[1:-1], counts / max(1, counts.sum()) / (edges[1] - edges[0]))
    return found


def consistency(sets: Sets) -> dict[str, dict[str, np.ndarray]]:
    """Computes the mean correlation of neighbouring slices along each axis."""
    both = {"real": sets.real, "generated": sets.generated}
    return {
        name: {of: mean_by_slice(adjacent_correlations(each.volumes, axis)) for of, each in both.items()}
        for axis, name in enumerate(AXES)
    }


def training_curves(workdir: pathlib.Path) -> tuple[Curve, ...]:
    """Reads the losses of metrics.jsonl."""
    rows = read_rows(workdir / "metrics.jsonl")
    curves = []
    for name in TRAINING_CURVES:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if points:
            curves.append(Curve(name, *zip(*points, strict=True)))
    return tuple(curves)


def pictures(sets: Sets) -> dict[str, Any]:
    """Montages of both sets."""
    found = {}
    for name, each in (("real", sets.real), ("generated", sets.generated)):
        shown = each.volumes[:MOST_PICTURES, ..., 0]
        rows = [
            (" ".join(each.names[start : start + PICTURES_A_ROW])[:120], shown[start : start + PICTURES_A_ROW])
            for start in range(0, len(shown), PICTURES_A_ROW)
        ]
        found[f"{name} volumes"] = montage(rows, each.affine)
    return found
