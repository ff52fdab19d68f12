"""Folds volumes: `fold` neighbouring voxels of W lie side by side in the channel axis.

A volume [B, D, H, W, C] folded by f is [B, D, H, W/f, f * C]: the same numbers in the same order in memory, but wide
enough to fill the lanes of a matrix unit where C alone is not. Every layer takes the fold of its activations as a
plain argument; parameters never depend on it.
"""

import jax
import jax.numpy as jnp


def refold(x: jax.Array, fold: int, new_fold: int) -> jax.Array:
    """Reshapes [B, D, H, W/fold, fold * C] to [B, D, H, W/new_fold, new_fold * C]."""
    if fold == new_fold:
        return x
    b, d, h, w, c = x.shape
    if w * fold % new_fold:
        raise ValueError(f"a width of {w * fold} cannot be folded by {new_fold}: make it a multiple of {new_fold}")
    return x.reshape(b, d, h, w * fold // new_fold, c // fold * new_fold)


def per_channel(values: jax.Array, fold: int) -> jax.Array:
    """Reshapes [..., C] to [..., 1, 1, 1, fold * C], which broadcasts over folded volumes."""
    repeated = jnp.tile(values, (1,) * (values.ndim - 1) + (fold,))
    return repeated[..., None, None, None, :]


def concatenate_channels(a: jax.Array, b: jax.Array, fold: int) -> jax.Array:
    """Joins the channels of two volumes of the same fold."""
    a, b = (x.reshape(*x.shape[:-1], fold, x.shape[-1] // fold) for x in (a, b))
    joined = jnp.concatenate([a, b], axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)
