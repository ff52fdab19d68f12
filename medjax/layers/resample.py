"""Doubling and halving the resolution, by plain reshapes so that volumes split over devices stay split."""

import jax
import jax.numpy as jnp

from medjax.layers.fold import refold
from medjax.layers.spatial import keep_split


def average_pool_2x(x: jax.Array, keep_depth: bool = False, fold: int = 1, out_fold: int = 1) -> jax.Array:
    """The mean of every 2 x 2 x 2 cube (1 x 2 x 2 with `keep_depth`).

    Args:
      x: [B, D, H, W/fold, fold * C]; halved axes even.
      keep_depth: leave D alone.
      fold: of x.
      out_fold: of the result.

    Returns:
      [B, D/2, H/2, W/2/out_fold, out_fold * C], of x's dtype.
    """
    x = keep_split(refold(x, fold, 1))
    b, d, h, w, c = x.shape
    depth = 1 if keep_depth else 2
    cubes = x.reshape(b, d // depth, depth, h // 2, 2, w // 2, 2, c)
    return keep_split(refold(cubes.mean(axis=(2, 4, 6)), 1, out_fold))


def nearest_2x(x: jax.Array, keep_depth: bool = False, fold: int = 1, out_fold: int = 1) -> jax.Array:
    """Every voxel becomes a 2 x 2 x 2 cube (1 x 2 x 2 with `keep_depth`); arguments as in `average_pool_2x`.

    Returns:
      [B, 2D, 2H, 2W/out_fold, out_fold * C], of x's dtype.
    """
    x = keep_split(refold(x, fold, 1))
    b, d, h, w, c = x.shape
    depth = 1 if keep_depth else 2
    cubes = jnp.broadcast_to(x[:, :, None, :, None, :, None], (b, d, depth, h, 2, w, 2, c))
    return keep_split(refold(cubes.reshape(b, d * depth, h * 2, w * 2, c), 1, out_fold))
