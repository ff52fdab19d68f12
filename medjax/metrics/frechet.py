"""Measures the Frechet distance between two sets of features, each taken for a Gaussian (FID, arXiv 1706.08500)."""

import dataclasses

import numpy as np

from medjax.metrics.feature_sets import comparable


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Holds what a set of features is reduced to: R^T R is its covariance (divided by n - 1), whatever its rank.

    Attributes:
      n: rows it was taken of.
      mean: [f] float64.
      root: R, [min(n, f), f] float64: small both for few volumes and for few features.
    """

    n: int
    mean: np.ndarray
    root: np.ndarray

    @property
    def total_variance(self) -> float:
        """Returns the trace of the covariance."""
        return float(np.sum(self.root**2))


def gaussian_of(features: np.ndarray) -> Gaussian:
    """Summarises features [n, f], n at least 2, in float64."""
    features = np.asarray(features, np.float64)
    mean = features.mean(axis=0)
    root = (features - mean) / np.sqrt(len(features) - 1)
    return Gaussian(len(features), mean, np.linalg.qr(root, mode="r") if len(root) > root.shape[1] else root)


def distance_of_gaussians(a: Gaussian, b: Gaussian) -> float:
    """Computes |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The eigenvalues of S_a S_b are the squared singular values of R_a R_b^T, so the trace of the root is their sum: no root
    of a matrix is taken, and fewer volumes than features do no harm.
    """
    root_trace = np.linalg.svd(a.root @ b.root.T, compute_uv=False).sum()
    squares = np.sum((a.mean - b.mean) ** 2) + a.total_variance + b.total_variance
    return max(0.0, float(squares - 2 * root_trace))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Computes the Frechet distance of features [n, f] from features [m, f], n and m at least 2.

    Returns:
      In squared units of the features, 0 for the same set. It depends on n and m: few volumes look further apart than many,
      so only distances of equal counts compare; `frechet_interval` takes that away.

    Raises:
      ValueError: too few rows, features of different lengths, or a value that is not finite.
    """
    a, b = comparable(a, b)
    return distance_of_gaussians(gaussian_of(a), gaussian_of(b))
