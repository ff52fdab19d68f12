"""What the Frechet distance of a few volumes says of the distance between the distributions they come from.

The distance of n volumes is too large: means differ by chance, and covariances of few volumes overlap less than those of
many. To first order in 1/n the excess doubles when half of the volumes are taken, so a line through the distances at n/2
and n, drawn to 1/n = 0, is free of it (FID-infinity, arXiv 1911.07023). Of the distance only the root's trace needs that: the
excess of the means is known exactly, tr(S)/n.

The interval comes from half-samples, halves of both sets drawn without replacement, again and again. Their distances
scatter about their mean, given the data, as the distance of n volumes does about its own over new data (the delete-half
jackknife); volumes drawn twice, as a bootstrap with replacement has them, would look like a distribution of lower rank.
Halves are as often too near as too far, distances are not: a set that by chance looks near also looks less scattered. How
much the ends must move up for that is told by how skewed the volumes' own shares in the distance are, and by how it curves
in the direction in which they move it (the ABC interval, DiCiccio and Efron 1996).
"""

import dataclasses

import numpy as np
from scipy import stats
from threadpoolctl import threadpool_limits

from medjax.metrics.feature_sets import comparable
from medjax.metrics.frechet import frechet_distance, gaussian_of

FEWEST = 4  # of which half are two


@dataclasses.dataclass(frozen=True)
class FrechetEstimate:
    """In squared units of the features; less is better.

    Attributes:
      value: the Frechet distance of the two sets as they are.
      half: the mean of those of halves of both sets; None with fewer than 4 volumes on a side, like all that follow.
      infinite: the extrapolation from these to sets without end; below 0 by chance where the distributions are alike.
      low: of the interval that holds the distance between the two distributions at least 95 times in 100, more often where
        it is small.
      high: the same. Where n is too small for the line (a quarter of the sets shows it), `low` is only what means and total
        variances alone prove.
      extrapolated: whether n is large enough for the line.
      n_real: volumes.
      n_generated: volumes.
    """

    value: float
    half: float | None
    infinite: float | None
    low: float | None
    high: float | None
    extrapolated: bool
    n_real: int
    n_generated: int


@threadpool_limits.wrap(limits=1)  # threads that wait for each other take many times longer over matrices so small
def estimate_frechet(real: np.ndarray, generated: np.ndarray, resamples: int = 200, seed: int = 0) -> FrechetEstimate:
    """The Frechet distance between features [n, f] and [m, f], and the interval for that between their distributions.

    Args:
      real: n of 2 or more.
      generated: m of 2 or more.
      resamples: half-samples. The interval's length is random by 1 / sqrt(2 * resamples), relatively.
      seed: of their choice.

    Raises:
      ValueError: too few rows, features of different lengths, or one that is not finite.
    """
    real, generated = comparable(real, generated)
    n, m = len(real), len(generated)
    value = frechet_distance(real, generated)
    if min(n, m) < FEWEST:
        return FrechetEstimate(value, None, None, None, None, False, n, m)

    rng = np.random.default_rng(seed)
    pairs = _Pairs(real, generated)
    everything = pairs.parts(np.arange(n), np.arange(m))
    halves, quarters = [], []
    for _ in range(resamples):
        rows, others = rng.permutation(n), rng.permutation(m)
        halves.append(pairs.parts(rows[: n // 2], others[: m // 2]))
        if min(n, m) >= 2 * FEWEST:
            quarters.append(pairs.parts(rows[: n // 4], others[: m // 4]))
    half = _mean(halves)
    of_all, of_half = 1 / n + 1 / m, 1 / (n // 2) + 1 / (m // 2)
    beyond = of_all / (of_half - of_all)  # how far behind n the line ends, n/2 to n being 1; 1 but for odd counts
    error = np.std([part.unbiased - part.root for part in halves], ddof=1) * np.sqrt(beyond)
    infinite = everything.unbiased - (everything.root + beyond * (everything.root - half.root))

    # What the next order, a parabola through the distances at n/4, n/2 and n, would change.
    curvature = (2 * everything.root - 3 * half.root + _mean(quarters).root) / 3 if quarters else np.inf
    extrapolated = abs(curvature) <= error
    z = float(stats.t.ppf(0.975, min(n, m) - 1))
    below, above = (np.hypot(error * max(0.0, x), curvature if quarters else 0.0) for x in _lengths(real, generated, z))
    low = infinite - below
    if not extrapolated:
        # The covariances are those of a subspace, and no line leads to the rest. But tr (S_a S_b)^(1/2) is at most
        # (tr S_a tr S_b)^(1/2), and of these the samples are unbiased.
        low = min(low, everything.least - z * np.std([part.least for part in halves], ddof=1))
    return FrechetEstimate(
        value=value,
        half=float(np.mean([part.biased for part in halves])),
        infinite=float(infinite),
        low=max(0.0, float(low)),
        high=max(0.0, float(infinite + above)),
        extrapolated=bool(extrapolated),
        n_real=n,
        n_generated=m,
    )


def _lengths(a: np.ndarray, b: np.ndarray, z: float) -> tuple[float, float]:
    """How many standard errors an interval reaches below and above the extrapolation, `z` if nothing were skewed.

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
    """The distance of weighted rows (covariances not divided by less than the sum), and its influence function at each row."""
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
    """A Frechet distance: `biased` is it, `unbiased` - `root` the same with what is known of its bias taken off.

    Attributes:
      biased: the distance.
      unbiased: |mean_a - mean_b|^2 without its excess, plus both traces.
      root: 2 tr (S_a S_b)^(1/2), whose bias is not known.
      least: `unbiased` less the most that `root` can be with these traces.
    """

    biased: float
    unbiased: float
    root: float
    least: float


def _mean(parts: list[_Parts]) -> _Parts:
    return _Parts(*(float(np.mean(column)) for column in zip(*map(dataclasses.astuple, parts), strict=True)))


class _Pairs:
    """The distance of any rows of one set from any of another; the products of all rows are taken once."""

    def __init__(self, a: np.ndarray, b: np.ndarray):
        # From a common origin, lest the products be large and their differences small.
        origin = (a.mean(axis=0) + b.mean(axis=0)) / 2
        self.a, self.b = a - origin, b - origin
        self.products = self.a @ self.b.T

    def parts(self, rows: np.ndarray, others: np.ndarray) -> _Parts:
        """Of a[rows] from b[others]."""
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
        unbiased_means = means - trace_a / n - trace_b / m
        traces = trace_a + trace_b
        least = unbiased_means + (np.sqrt(trace_a) - np.sqrt(trace_b)) ** 2
        return _Parts(means + traces - root, unbiased_means + traces, root, float(least))
