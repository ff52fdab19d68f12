"""Compares two sets of volumes row by row."""

import jax

from medjax.metrics.ms_ssim import moments, ms_ssim_of_moments


@jax.jit
def ms_ssim(a: jax.Array, b: jax.Array) -> jax.Array:
    """[n]: of volumes [n, D, H, W, 1] in [-1, 1] with others, row by row.

    Raises:
      ValueError: an edge is shorter than the window.
    """
    return ms_ssim_of_moments(moments(a), moments(b))
