"""The kernel distance between two sets of features (KID, arXiv 1801.01401): unbiased, so counts may differ and be small."""

import dataclasses

import numpy as np

from medjax.metrics.feature_sets import comparable


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """Less is better; without a unit.

    Attributes:
      value: the squared maximum mean discrepancy; around 0, and as often below as above it, for sets of one distribution.
      error: its standard error over new volumes on both sides; for sets of one distribution too large, by up to 1.4 times.
      n_real: volumes.
      n_generated: volumes.
    """

    value: float
    error: float
    n_real: int
    n_generated: int


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> KernelDistance:
    """MMD^2 of features [n, f] and [m, f] under the kernel (x . y / f + 1)^3, in float64.

    All pairs of different rows are used at once: no subsets of a chosen size, no randomness. The standard error is that of
    a U-statistic by its first-order terms, each row's mean kernel within its own set less that with the other set.

    Raises:
      ValueError: fewer than two rows, features of different lengths, or a value that is not finite.
    """
    real, generated = comparable(real, generated)
    within_real, within_generated = _mean_of_others(real), _mean_of_others(generated)
    across = _kernel(real, generated)
    value = within_real.mean() + within_generated.mean() - 2 * across.mean()
    of_real, of_generated = within_real - across.mean(axis=1), within_generated - across.mean(axis=0)
    variance = sum(4 * np.var(terms, ddof=1) / len(terms) for terms in (of_real, of_generated))
    return KernelDistance(float(value), float(np.sqrt(variance)), len(real), len(generated))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_others(rows: np.ndarray) -> np.ndarray:
    """[n]: each row's mean kernel with the others."""
    kernel = _kernel(rows, rows)
    return (kernel.sum(axis=1) - np.diagonal(kernel)) / (len(rows) - 1)
