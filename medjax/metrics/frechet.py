"""The Frechet distance between two sets of features, each taken for a Gaussian (FID, arXiv 1706.08500)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), computed in float64.

    With centred rows A and B the eigenvalues of S_a S_b are the squared singular values of A B^T / sqrt((n-1)(m-1)), so the
    trace of the root is their sum: no root of a matrix is taken, and fewer volumes than features do no harm.

    Args:
      a: [n, features], n at least 2.
      b: [m, features], m at least 2.

    Returns:
      The distance, in squared units of the features; 0 for the same set. It depends on n and m: few volumes look further apart
      than many, so only distances of equal counts compare.

    Raises:
      ValueError: too few rows, or features of different lengths.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if min(len(a), len(b)) < 2 or a.shape[1:] != b.shape[1:] or a.ndim != 2:
        raise ValueError(f"features {a.shape} and {b.shape}: give [n, k] and [m, k] with n and m of 2 or more")
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    rows_a, rows_b = ((rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in ((a, mean_a), (b, mean_b)))
    root = np.linalg.svd(rows_a @ rows_b.T, compute_uv=False).sum()
    return float(np.sum((mean_a - mean_b) ** 2) + np.sum(rows_a**2) + np.sum(rows_b**2) - 2 * root)


def features_of(extract: Callable[[jax.Array], jax.Array], volumes: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """The features of many volumes, a batch at a time.

    Args:
      extract: maps volumes [B, D, H, W, C] to features [B, k]; compiled once.
      volumes: [n, D, H, W, C] on the host.
      batch_size: B; the last batch is filled up with repeats that are dropped.

    Returns:
      [n, k] float32.
    """
    extract, n = jax.jit(extract), len(volumes)
    batches = [np.arange(start, start + batch_size) % n for start in range(0, n, batch_size)]
    return np.concatenate([np.asarray(extract(jnp.asarray(volumes[rows]))) for rows in batches])[:n]
