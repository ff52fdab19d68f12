"""Doubles and halves the resolution, by reshapes and slices so that volumes split over devices stay split.

Planes of D and rows of H lie apart in memory, neighbours of W do not: a TPU must move data about to pair them, unless a
fold has laid them side by side. So W is folded for it, and halved last and doubled first, when there is least to move.
"""

import jax
import jax.numpy as jnp

from medjax.layers.fold import refold
from medjax.layers.spatial import constrain_volume


def average_pool_2x(x: jax.Array, keep_depth: bool = False, fold: int = 1, out_fold: int = 1) -> jax.Array:
    """Averages every 2 x 2 x 2 cube (1 x 2 x 2 with `keep_depth`), in float32.

    Args:
      x: [B, D, H, W/fold, fold * C]; halved axes even.
      keep_depth: leave D alone.
      fold: fold of x.
      out_fold: fold of the result.

    Returns:
      [B, D/2, H/2, W/2/out_fold, out_fold * C], of x's dtype.
    """
    x = constrain_volume(x)
    b, d, h, w, c = x.shape
    depth = 1 if keep_depth else 2
    cubes = x.reshape(b, d // depth, depth, h // 2, 2, w, c).astype(jnp.float32)
    voxels = jnp.split(refold(cubes.sum(axis=(2, 4)), fold, 2 * out_fold), 2 * out_fold, axis=-1)
    pairs = [even + odd for even, odd in zip(voxels[::2], voxels[1::2], strict=True)]
    return constrain_volume((jnp.concatenate(pairs, axis=-1) / (4 * depth)).astype(x.dtype))


def nearest_2x(x: jax.Array, keep_depth: bool = False, fold: int = 1, out_fold: int = 1) -> jax.Array:
    """Repeats every voxel as a 2 x 2 x 2 cube (1 x 2 x 2 with `keep_depth`); arguments as in `average_pool_2x`.

    Returns:
      [B, 2D, 2H, 2W/out_fold, out_fold * C], of x's dtype.
    """
    voxels = jnp.split(constrain_volume(x), fold, axis=-1)
    x = jnp.concatenate([voxel for voxel in voxels for _ in range(2)], axis=-1)
    x = refold(x, 2 * fold, out_fold)
    b, d, h, w, c = x.shape
    depth = 1 if keep_depth else 2
    cubes = jnp.broadcast_to(x[:, :, None, :, None], (b, d, depth, h, 2, w, c))
    return constrain_volume(cubes.reshape(b, d * depth, h * 2, w, c))
