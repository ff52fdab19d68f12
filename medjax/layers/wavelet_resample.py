"""Halves and doubles the resolution by a 3D Haar transform: what a level cannot hold goes on as subbands."""

import jax
import jax.numpy as jnp

from medjax.layers.fold import refold
from medjax.layers.spatial import constrain_volume
from medjax.wavelets import SUBBANDS, haar_dwt3d, haar_idwt3d

# A transform multiplies the mean of a cube by 2 sqrt 2; WDM divides it by 3 where it goes on.
LOW_SCALE = 3.0


def haar_bands(x: jax.Array, fold: int = 1, out_fold: int = 1) -> jax.Array:
    """Returns all eight subbands as channels, each divided by 3.

    Args:
      x: [B, D, H, W/fold, fold * C]; D, H and W even.
      fold: fold of x.
      out_fold: fold of the result.

    Returns:
      [B, D/2, H/2, W/2/out_fold, out_fold * 8C], of x's dtype: the C channels of LLL first, those of HHH last.
    """
    return _as_volume(_transformed(x, fold) / LOW_SCALE, x.dtype, out_fold)


def haar_down(x: jax.Array, fold: int = 1, out_fold: int = 1) -> tuple[jax.Array, jax.Array]:
    """Returns LLL / 3 and, apart and unscaled, the seven other subbands; arguments as in `haar_bands`.

    Returns:
      [B, D/2, H/2, W/2/out_fold, out_fold * C] and [B, D/2, H/2, W/2/out_fold, out_fold * 7C], of x's dtype.
    """
    bands = _transformed(x, fold)
    low, details = bands[..., :1, :] / LOW_SCALE, bands[..., 1:, :]
    return _as_volume(low, x.dtype, out_fold), _as_volume(details, x.dtype, out_fold)


def haar_up(low: jax.Array, details: jax.Array, fold: int = 1, out_fold: int = 1) -> jax.Array:
    """Inverts `haar_down`: [B, D, H, W/fold, fold * C] and its details to [B, 2D, 2H, 2W/out_fold, out_fold * C]."""
    dtype = low.dtype
    low, details = (constrain_volume(refold(part, fold, 1)).astype(jnp.float32) for part in (low, details))
    bands = jnp.concatenate([low * LOW_SCALE, details], axis=-1)
    bands = bands.reshape(*low.shape[:4], len(SUBBANDS), low.shape[-1])
    return constrain_volume(refold(haar_idwt3d(bands).astype(dtype), 1, out_fold))


def _transformed(x: jax.Array, fold: int) -> jax.Array:
    return haar_dwt3d(constrain_volume(refold(x, fold, 1)).astype(jnp.float32))


def _as_volume(bands: jax.Array, dtype: jnp.dtype, fold: int) -> jax.Array:
    """Reshapes [B, D, H, W, bands, C] to [B, D, H, W/fold, fold * bands * C]."""
    return constrain_volume(refold(bands.reshape(*bands.shape[:4], -1).astype(dtype), 1, fold))
