"""Measures whether neighbouring slices belong together: their correlation falls with slice-wise artefacts, rises with blur."""

import numpy as np


def adjacent_correlations(volumes: np.ndarray, axis: int) -> np.ndarray:
    """Computes Pearson's correlation of each slice with the next one along an axis: [n, slices - 1].

    Args:
      volumes: [n, I, J, K] or [n, I, J, K, 1], of any range.
      axis: 0, 1 or 2, along I, J or K.

    Returns:
      float64; NaN where one of the two slices is of one value, as outside of the head.
    """
    slices = np.moveaxis(np.asarray(volumes).reshape(volumes.shape[:4]), axis + 1, 1)
    n, depth = slices.shape[:2]
    found = np.empty((n, depth - 1))
    for volume, row in zip(slices, found, strict=True):
        flat = volume.reshape(depth, -1).astype(np.float64)
        flat -= flat.mean(axis=1, keepdims=True)
        lengths = np.sqrt((flat**2).sum(axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            row[:] = (flat[:-1] * flat[1:]).sum(axis=1) / (lengths[:-1] * lengths[1:])
        row[(lengths[:-1] < 1e-6) | (lengths[1:] < 1e-6)] = np.nan
    return found


def mean_by_slice(correlations: np.ndarray) -> np.ndarray:
    """Averages over volumes that have something in both slices: [slices - 1]; NaN where none has."""
    known = np.isfinite(correlations)
    total = np.where(known, correlations, 0.0).sum(axis=0)
    return np.where(known.any(axis=0), total / np.maximum(1, known.sum(axis=0)), np.nan)
