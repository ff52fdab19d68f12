"""Limits how far a nearest neighbour may stand out by chance, and counts how often that is passed without any copying.

A score is the largest of many likenesses less the one some ranks behind. Where likenesses have tails as those of normal
variables, it is distributed as the largest of `rank` exponential variables (Renyi 1953), up to a location and a scale. Both
are fitted by the median and the quartiles, so duplicates among the volumes that the threshold is taken from, up to a
quarter, do no harm. Data are not all alike, and then the tail is heavier than the fit: with enough volumes the threshold is
no lower than what the asked share of them has passed.

How often the threshold is passed is not taken from that theory but counted, each volume judged by the threshold that the others
give.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

SIMULATIONS = 4000
# The threshold goes at most so many times as far from the location as the fit has it: what lies beyond are duplicates, which
# must not hide copies.
FURTHEST = 2.0


@dataclasses.dataclass(frozen=True)
class Limit:
    """Holds the threshold of scores, and how well it is known.

    Attributes:
      threshold: score above which a volume counts as a copy.
      error: its standard error, from the fit.
      scale: scale of the distribution that was fitted.
    """

    threshold: float
    error: float
    scale: float


@dataclasses.dataclass(frozen=True)
class Observed:
    """Holds the false alarms that were counted.

    Attributes:
      flagged: [k], which of the volumes without copies.
      low: lower end of the interval that holds a new subject's rate 95 times in 100 (Clopper and Pearson 1934).
      high: upper end of that interval.
    """

    flagged: np.ndarray
    low: float
    high: float

    @property
    def count(self) -> int:
        """Counts the volumes without copies that are flagged all the same."""
        return int(self.flagged.sum())

    def chance(self, rate: float) -> float:
        """Tells the probability of as many false alarms or more, were `rate` the one for every volume."""
        return float(stats.binom.sf(self.count - 1, len(self.flagged), rate))


def limit_of(scores: np.ndarray, rank: int, rate: float) -> Limit:
    """Finds the score that a further volume without copies passes with probability `rate`.

    Args:
      scores: [k] of volumes without copies.
      rank: number of ranks, at least 1, between the nearest likeness and the one that was taken off.
      rate: probability of a false alarm for each volume.
    """
    location, scale = _fitted(scores, rank)
    scale = max(float(scale), 1e-6)
    factor, error = _scales_away(len(scores), rank, rate)
    threshold, furthest = location + factor * scale, location + FURTHEST * factor * scale
    place = int(
        np.ceil((len(scores) + 1) * (1 - rate))
    )  # of k + 1 scores in order, the last is beyond the k-th once in k + 1
    if place <= len(scores):
        threshold = max(threshold, min(np.partition(scores, place - 1)[place - 1], furthest))
    return Limit(float(threshold), error * scale, scale)


def observed(scores: Sequence[np.ndarray], rank: int, rate: float) -> Observed:
    """Counts the volumes without copies that are flagged in any space by the threshold that the others give.

    Args:
      scores: [k] in each space.
      rank, rate: arguments of `limit_of`, in each space.
    """
    k = len(scores[0])
    passed = [[each[row] > limit_of(np.delete(each, row), rank, rate).threshold for row in range(k)] for each in scores]
    flagged = np.any(passed, axis=0)
    interval = stats.binomtest(int(flagged.sum()), k).proportion_ci(method="exact")
    return Observed(flagged, float(interval.low), float(interval.high))


@functools.cache
def _scales_away(k: int, rank: int, rate: float) -> tuple[float, float]:
    """Finds how many scales from the location, both fitted to k scores, the threshold is, and its standard error in scales.

    In these units a fit errs alike whatever location and scale are sought, so that it can be simulated.
    """
    draws = _quantile(np.random.default_rng(0).random((SIMULATIONS, k)), rank)
    locations, scales = _fitted(draws, rank)

    def too_often(factor: float) -> float:
        beyond = np.maximum(locations + factor * scales, 0)
        return float(np.mean(-np.expm1(rank * np.log(-np.expm1(-np.maximum(beyond, 1e-300)))))) - rate

    factor = float(optimize.brentq(too_often, 0, 1e4))
    return factor, float(np.std(locations + factor * scales))


def _fitted(scores: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the location and scale with which the distribution has the median and quartiles of scores [..., k]."""
    low, middle, high = np.percentile(scores, [25, 50, 75], axis=-1)
    expected = _quantile(np.array([0.25, 0.5, 0.75]), rank)
    scale = (high - low) / (expected[2] - expected[0])
    return middle - scale * expected[1], scale


def _quantile(share: np.ndarray, rank: int) -> np.ndarray:
    """Tells what the largest of `rank` exponential variables stays below with the probability `share`."""
    return -np.log(-np.expm1(np.log(share) / rank))
