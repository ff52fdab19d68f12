"""Measures what `diffusion.subband_scale` may be set to: the standard deviation of each subband of the training data."""

import pathlib
import sys
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipelines.batches import open_dataset, volumes
from medjax.diffusion.wavelet_domain import subband_deviations
from medjax.wavelets import SUBBANDS

MEASURED = 64  # volumes; more change the third digit


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Says the line to add to a command that starts a new run; measures at most 64 of the training volumes.

    The numbers belong on the command line, not in the model: config.json then holds them for ever, whatever becomes of
    the data, and a run does not depend on what was measured when.

    Args:
      config: of which `data` counts.
      workdir: not used.

    Raises:
      DataError: the data cannot be used.
    """
    del workdir
    measured = volumes(open_dataset(config.data, config.seed), "train", MEASURED)
    scale = tuple(float(f"{value:.4g}") for value in subband_deviations(measured))
    line = f'--config.diffusion.subband_scale="({",".join(map(str, scale))})"'
    print(f"to divide each subband by its deviation in {len(measured)} volumes: {line}", file=sys.stderr)
    return {
        "volumes": len(measured),
        "subbands": dict(zip(SUBBANDS, scale, strict=True)),
        "mean_square_of_voxels": float(np.mean(np.square(measured, dtype=np.float64))),
        "argument": line,
    }
