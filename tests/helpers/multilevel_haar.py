"""Transforms the coarsest subband again and again, and back."""

import jax
import jax.numpy as jnp

from medjax.wavelets import haar_dwt3d, haar_idwt3d


def haar_wavedec3d(x: jax.Array, levels: int) -> tuple[jax.Array, list[jax.Array]]:
    """The multilevel transform: LLL is transformed again, `levels` times in all.

    Args:
      x: [B, D, H, W, C]; D, H and W multiples of 2**levels.
      levels: 0 or more.

    Returns:
      The coarsest LLL, [B, D/2**levels, ..., C], and the seven other subbands of every level, finest first,
      [B, D/2**level, ..., 7, C] in the order LLH .. HHH.

    Raises:
      ValueError: an edge is not a multiple of 2**levels.
    """
    if x.ndim != 5 or any(edge % 2**levels for edge in x.shape[1:4]):
        raise ValueError(f"{levels} Haar levels of shape {x.shape}: D, H and W must be multiples of {2**levels}")
    details = []
    for _ in range(levels):
        bands = haar_dwt3d(x)
        x = bands[..., 0, :]
        details.append(bands[..., 1:, :])
    return x, details


def haar_waverec3d(coarse: jax.Array, details: list[jax.Array]) -> jax.Array:
    """The inverse of `haar_wavedec3d`."""
    for detail in reversed(details):
        coarse = haar_idwt3d(jnp.concatenate([coarse[..., None, :], detail], axis=4))
    return coarse
