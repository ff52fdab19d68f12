"""Estimates, from a few volumes, the Frechet distance between the distributions they come from.

The distance of n volumes is too large: means differ by chance, and covariances of few volumes overlap less than those of
many. To first order in 1/n the excess doubles when half of the volumes are taken, so a line through the distances at n/2
and n, drawn to 1/n = 0, is free of it (FID-infinity, arXiv 1911.07023). Of the distance only the root's trace needs that: the
excess of the means is known exactly, tr(S)/n.

The interval comes from half-samples, halves of both sets drawn without replacement, again and again. Their distances
scatter about their mean, given the data, as the distance of n volumes does about its own over new data (the delete-half
jackknife); volumes drawn twice, as a bootstrap with replacement has them, would look like a distribution of lower rank.
The errors of halves are symmetric, those of the estimate are not: sets that land close by chance also show less spread. So
the interval is corrected for the skewness of the volumes' shares in the distance, and for its curvature in the direction in
which they move it (the ABC interval, DiCiccio and Efron 1996).

All of this needs volumes enough to show in how many directions the features vary. Where they are not, the line is bent in a
way that these volumes cannot tell, and there is neither extrapolation nor interval. What holds for any features and any n is
a permutation test: were both distributions one, then volumes shuffled between the sets would lie as far apart as the sets do.
It also decides whether an interval may leave out 0.
"""

import dataclasses

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from medjax.metrics.feature_sets import comparable
from medjax.metrics.frechet import frechet_distance, gaussian_of

FEWEST = 4  # of which half are two
SHARE_SHOWN = 0.99  # of the total variance, in directions of which there must be
ROWS_A_DIRECTION = 4  # volumes on either side at least
LEVEL = 0.025  # of the test that lets an interval leave out 0: one side of 95 %
SHUFFLES = 199
FEWER_SHUFFLES, MANY = (
    39,
    400,
)  # of sets with more volumes and features than that, where each takes long; the least that LEVEL needs


@dataclasses.dataclass(frozen=True)
class FrechetEstimate:
    """Holds the estimate, in squared units of the features; less is better.

    Attributes:
      value: the Frechet distance of the two sets as they are.
      half: the mean of those of halves of both sets; None with fewer than 4 volumes on a side.
      infinite: the extrapolation from these to sets without end; below 0 by chance where the distributions are alike. None, like
        the interval, where these volumes do not prove that it holds: see `estimate_frechet`.
      low: lower end of the interval that holds the two distributions' distance at least 93 times in 100 in simulations
        (benchmarks/coverage.py), more often where it is small.
      high: upper end of that interval.
      p_value: share of sets of these sizes, shuffled out of all volumes, at least as far apart: the probability of that if
        both are of one distribution. At least 1 / (shuffles + 1).
      shuffled: the mean distance of such sets.
      n_real: volumes.
      n_generated: volumes.
    """

    value: float
    half: float | None
    infinite: float | None
    low: float | None
    high: float | None
    p_value: float
    shuffled: float
    n_real: int
    n_generated: int

    @property
    def extrapolated(self) -> bool:
        """Tells whether n is large enough for the line, and for the interval around its end."""
        return self.infinite is not None


@threadpool_limits.wrap(limits=1)  # threads that wait for each other take many times longer over matrices so small
def estimate_frechet(real: np.ndarray, generated: np.ndarray, resamples: int = 200, seed: int = 0) -> FrechetEstimate:
    """Estimates the Frechet distance between features [n, f] and [m, f], and that between their distributions.

    The extrapolation and its interval are given only where a parabola through the distances of quarters, halves and all would
    change less than the standard error, and where there are four volumes on either side for each of the directions that
    hold 99 % of the variance.

    Args:
      real: n of 2 or more.
      generated: m of 2 or more.
      resamples: half-samples. The interval's length is random by 1 / sqrt(2 * resamples), relatively.
      seed: seed of their choice, and of the shuffles.

    Raises:
      ValueError: too few rows, features of different lengths, or one that is not finite.
    """
    real, generated = comparable(real, generated)
    n, m = len(real), len(generated)
    value = frechet_distance(real, generated)
    shuffled = _shuffled(real, generated, np.random.default_rng([seed, 1]))
    # Sets that are equal but for rounding are as far apart as each other.
    p_value = float((1 + np.sum(shuffled >= value * (1 - 1e-9))) / (1 + len(shuffled)))
    tested = {"p_value": p_value, "shuffled": float(shuffled.mean()), "n_real": n, "n_generated": m}
    if min(n, m) < FEWEST:
        return FrechetEstimate(value, None, None, None, None, **tested)

    rng, pairs = np.random.default_rng(seed), _Pairs(real, generated)
    everything = pairs.parts(np.arange(n), np.arange(m))
    halves, quarters = [], []
    for _ in range(resamples):
        rows, others = rng.permutation(n), rng.permutation(m)
        halves.append(pairs.parts(rows[: n // 2], others[: m // 2]))
        if min(n, m) >= 2 * FEWEST:
            quarters.append(pairs.parts(rows[: n // 4], others[: m // 4]))
    half = _mean(halves)
    told = float(np.mean([part.biased for part in halves]))
    of_all, of_half = 1 / n + 1 / m, 1 / (n // 2) + 1 / (m // 2)
    beyond = of_all / (of_half - of_all)  # how far behind n the line ends, n/2 to n being 1; 1 but for odd counts
    error = np.std([part.unbiased - part.root for part in halves], ddof=1) * np.sqrt(beyond)
    infinite = everything.unbiased - (everything.root + beyond * (everything.root - half.root))

    # What the next order, a parabola through the distances at n/4, n/2 and n, would change.
    curvature = (2 * everything.root - 3 * half.root + _mean(quarters).root) / 3 if quarters else np.inf
    if abs(curvature) > error or ROWS_A_DIRECTION * _directions(real, generated) > min(n, m):
        return FrechetEstimate(value, told, None, None, None, **tested)
    z = float(stats.t.ppf(0.975, min(n, m) - 1))
    below, above = (np.hypot(error * max(0.0, x), curvature) for x in _lengths(real, generated, z))
    return FrechetEstimate(
        value=value,
        half=told,
        infinite=float(infinite),
        low=max(0.0, float(infinite - below)) if p_value <= LEVEL else 0.0,
        high=max(0.0, float(infinite + above)),
        **tested,
    )


def _shuffled(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Takes the distances of sets of these sizes whose rows are dealt out anew from those of both: [shuffles]."""
    rows, n = np.concatenate([a, b]), len(a)
    pairs = _Pairs(rows, rows)
    shuffles = SHUFFLES if min(n, len(b), a.shape[1]) <= MANY else FEWER_SHUFFLES
    orders = [rng.permutation(len(rows)) for _ in range(shuffles)]
    return np.array([max(0.0, pairs.parts(order[:n], order[n:]).biased) for order in orders])


def _directions(a: np.ndarray, b: np.ndarray) -> int:
    """Counts the principal directions that hold `SHARE_SHOWN` of the variance within both sets; 0 where nothing varies."""
    rows = np.concatenate([x - x.mean(axis=0) for x in (a, b)])
    products = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
    variances = np.maximum(np.linalg.eigvalsh(products)[::-1], 0)
    return int(np.sum(np.cumsum(variances) < SHARE_SHOWN * variances.sum())) + 1 if variances[0] else 0


def _lengths(a: np.ndarray, b: np.ndarray, z: float) -> tuple[float, float]:
    """Returns how many standard errors an interval reaches below and above the extrapolation, `z` if nothing were skewed.

    Those of the ABC interval for an estimate whose bias has been taken off already: the part of it that comes of the curvature
    is put back, for the ends are those of what curves.
    """
    flat = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
    middle, influences = _weighted(a, b, flat)
    shares = [influence / len(influence) for influence in influences]
    error = np.sqrt(sum(np.sum(share**2) for share in shares))
    if error <= 1e-9 * (a.var(axis=0).sum() + b.var(axis=0).sum()):  # one set twice
        return z, z
    acceleration = sum(np.sum(share**3) for share in shares) / (6 * error**3)
    steps = [share / (error * len(share)) for share in shares]  # of weights that move the distance by one error
    up, down = (
        _weighted(a, b, [np.maximum(weights + sign * step, 0) for weights, step in zip(flat, steps, strict=True)])[0]
        for sign in (1, -1)
    )
    curvature = (up + down - 2 * middle) / (2 * error)
    ends = np.array([-z, z]) + acceleration
    ends = ends / (1 - acceleration * ends) ** 2
    below, above = ends + curvature * (1 + ends**2)
    return -float(below), float(above)


def _weighted(a: np.ndarray, b: np.ndarray, weights: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Computes the distance of weighted rows (biased covariances), and its influence function at each row."""
    means, rows, factors = [], [], []
    for x, w in zip((a, b), weights, strict=True):
        w = w / w.sum()
        means.append(w @ x)
        rows.append(x - means[-1])
        factors.append(np.linalg.qr(np.sqrt(w)[:, None] * rows[-1]))
    u, s, vt = np.linalg.svd(factors[0].R @ factors[1].R.T, full_matrices=False)
    difference = means[0] - means[1]
    distance, influences = np.sum(difference**2), []
    for x, w, factor, vectors, sign in zip(rows, weights, factors, (u, vt.T), (1, -1), strict=True):
        w = w / w.sum()
        squares = np.sum(x**2, axis=1)
        root = (factor.Q @ vectors) ** 2 @ s  # each row's part of tr (S_a S_b)^(1/2)
        distance += w @ squares - root.sum()
        varying = squares - root / np.maximum(w, 1e-12)
        influences.append(2 * sign * x @ difference + varying - w @ varying)
    return float(distance), influences


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Holds a Frechet distance: `biased` is it, `unbiased` - `root` the same with what is known of its bias taken off.

    Attributes:
      biased: the distance.
      unbiased: |mean_a - mean_b|^2 without its excess, plus both traces.
      root: 2 tr (S_a S_b)^(1/2), whose bias is not known.
    """

    biased: float
    unbiased: float
    root: float


def _mean(parts: list[_Parts]) -> _Parts:
    return _Parts(*(float(np.mean(column)) for column in zip(*map(dataclasses.astuple, parts), strict=True)))


class _Pairs:
    """Computes the distance of any rows of one set from any of another; the products of all rows are taken once."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        # From a common origin, lest the products be large and their differences small.
        origin = (a.mean(axis=0) + b.mean(axis=0)) / 2
        self.a, self.b = a - origin, b - origin
        self.products = self.a @ self.b.T

    def parts(self, rows: np.ndarray, others: np.ndarray) -> _Parts:
        """Measures the distance of a[rows] from b[others]."""
        n, m = len(rows), len(others)
        a, b = self.a[rows], self.b[others]
        trace_a, trace_b = (float(x.var(axis=0, ddof=1).sum()) for x in (a, b))
        if a.shape[1] < min(n, m):
            product = gaussian_of(a).root @ gaussian_of(b).root.T
        else:  # centred products: those of centred rows
            product = self.products[np.ix_(rows, others)]
            product = product - product.mean(axis=0) - product.mean(axis=1, keepdims=True) + product.mean()
            product /= np.sqrt((n - 1) * (m - 1))
        root = 2 * float(np.linalg.svd(product, compute_uv=False).sum())
        means = float(np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2))
        traces = trace_a + trace_b
        return _Parts(means + traces - root, means - trace_a / n - trace_b / m + traces, root)
