"""Measures the kernel distance between two sets of features (KID, arXiv 1801.01401), unbiased for any counts."""

import dataclasses

import numpy as np

from medjax.metrics.feature_sets import comparable

Z = 1.96  # standard errors that an interval reaches


@dataclasses.dataclass(frozen=True)
class KernelDistance:
    """Less is better; without a unit.

    Attributes:
      value: the squared maximum mean discrepancy; around 0, and as often below as above it, for sets of one distribution.
      error: its standard error over new volumes on both sides (jackknife); for sets of one distribution too large, by up to 1.4
        times.
      low: lower end of an interval that holds the two distributions' distance about 95 times in 100 where the sets differ in
        what most volumes show. A kind of volumes that only one set has counts from its second volume on: with fewer than
        about ten of them the distance is mostly seen too small, and held 6 to 9 times in 10 (benchmarks/coverage.py).
      high: upper end of that interval.
      n_real: volumes.
      n_generated: volumes.
    """

    value: float
    error: float
    low: float
    high: float
    n_real: int
    n_generated: int


def kernel_distance(real: np.ndarray, generated: np.ndarray) -> KernelDistance:
    """Takes the MMD^2 of features [n, f] and [m, f] under the kernel (x . y / f + 1)^3, in float64.

    All pairs of different rows are used at once: no subsets of a chosen size, no randomness. The standard error is that of
    the jackknife, every row left out in turn; with two rows on a side, of the first-order terms alone.

    The variance grows with the distance itself: sets that by chance look alike also seem to scatter less. So the interval's
    upper end is where the error that would be there, the variance in proportion to the distance, just reaches back to the value.

    Raises:
      ValueError: fewer than two rows, features of different lengths, or a value that is not finite.
    """
    real, generated = comparable(real, generated)
    within_real, within_generated = _mean_of_others(real), _mean_of_others(generated)
    across = _kernel(real, generated)
    value = float(within_real.mean() + within_generated.mean() - 2 * across.mean())
    variance = sum(
        _variance(within, to_others)
        for within, to_others in ((within_real, across.mean(axis=1)), (within_generated, across.mean(axis=0)))
    )
    error = float(np.sqrt(variance))
    growth = Z**2 * variance / max(value, error, 1e-300)
    high = value + growth / 2 + np.sqrt(max(0.0, growth * value + growth**2 / 4))
    return KernelDistance(
        value=value,
        error=error,
        low=value - Z * error,
        high=float(max(value + Z * error, high)),
        n_real=len(real),
        n_generated=len(generated),
    )


def _variance(within: np.ndarray, across: np.ndarray) -> float:
    """Estimates one set's part of the distance's variance.

    Args:
      within: [n], each row's mean kernel with the others of its set.
      across: [n], its mean kernel with the other set.
    """
    n = len(within)
    if n == 2:
        return 4 * float(np.var(within - across, ddof=1)) / n
    # What leaving out a row moves the distance by, but for a constant: the mean over pairs loses 2 (n - 1) of n (n - 1), the
    # mean over rows 1 of n.
    moves = -2 * within / (n - 2) + 2 * across / (n - 1)
    return float((n - 1) * np.var(moves))


def _kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_of_others(rows: np.ndarray) -> np.ndarray:
    """Averages each row's kernel with the others: [n]."""
    kernel = _kernel(rows, rows)
    return (kernel.sum(axis=1) - np.diagonal(kernel)) / (len(rows) - 1)
