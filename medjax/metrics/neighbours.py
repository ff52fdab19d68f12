"""Tells whether generated volumes are like real ones, and as varied, by nearest neighbours in feature space.

Each set is described by balls around its members that reach to the k-th nearest other member. Precision and recall
(arXiv 1904.06991) ask which members of one set lie in any ball of the other; density and coverage (arXiv 2002.09797) count in
the balls of real volumes only, so that a single odd generated volume with its large ball does not help.
"""

import dataclasses

import numpy as np

from medjax.metrics.feature_sets import comparable

K = 5  # as density and coverage were published; precision and recall were with 3
CHUNK = 1024  # rows whose distances are in memory at once


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Shares of volumes; more is better. Sets of one distribution score about 1, coverage 1 - 2^-k for large equal counts.

    Attributes:
      precision: share of the generated volumes that lie among real ones.
      recall: share of the real volumes that lie among generated ones: low if the model has collapsed onto a few.
      density: number of real balls a generated volume lies in, over k; above 1 where they crowd in dense places.
      coverage: share of the real volumes with a generated one within their own ball.
      k: neighbours that a ball reaches to.
      n_real: volumes.
      n_generated: volumes.
    """

    precision: float
    recall: float
    density: float
    coverage: float
    k: int
    n_real: int
    n_generated: int


def neighbours(real: np.ndarray, generated: np.ndarray, k: int = K) -> Neighbours:
    """Compares features [n, f] and [m, f]; k is lowered to what the smaller set has, its rows less one.

    Raises:
      ValueError: k is below 1, there are fewer than two rows, features of different lengths, or one that is not finite.
    """
    real, generated = comparable(real, generated)
    if k < 1:
        raise ValueError(f"k is {k}: give 1 neighbour or more")
    k = min(k, len(real) - 1, len(generated) - 1)
    real_radius, generated_radius = neighbour_distances(real, k), neighbour_distances(generated, k)
    recalled = np.zeros(len(real), bool)
    covered = np.zeros(len(real), bool)
    balls = np.zeros(len(generated), int)  # of real volumes, around each generated one
    for start in range(0, len(real), CHUNK):
        rows = slice(start, start + CHUNK)
        apart = distances(real[rows], generated)
        inside = apart <= real_radius[rows, None]
        balls += inside.sum(axis=0)
        covered[rows] = inside.any(axis=1)
        recalled[rows] = (apart <= generated_radius).any(axis=1)
    return Neighbours(
        precision=float(np.mean(balls > 0)),
        recall=float(recalled.mean()),
        density=float(balls.mean() / k),
        coverage=float(covered.mean()),
        k=k,
        n_real=len(real),
        n_generated=len(generated),
    )


def neighbour_distances(rows: np.ndarray, k: int) -> np.ndarray:
    """Measures how far the k-th nearest other row is: [n]."""
    radii = np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        apart = distances(rows[start : start + CHUNK], rows)
        apart[np.arange(len(apart)), start + np.arange(len(apart))] = 0  # itself, to the bit the nearest
        radii[start : start + CHUNK] = np.partition(apart, k, axis=1)[:, k]
    return radii


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Measures Euclidean distances of rows [n, f] from rows [m, f]: [n, m] float64; 0 for equal rows but for rounding."""
    origin = b.mean(axis=0)  # from afar all distances would look alike
    a, b = np.asarray(a, np.float64) - origin, np.asarray(b, np.float64) - origin
    squares = np.sum(a**2, axis=1)[:, None] + np.sum(b**2, axis=1) - 2 * a @ b.T
    return np.sqrt(np.maximum(squares, 0))
