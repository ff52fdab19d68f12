"""One slice of each volume, at random: what two-dimensional networks look at."""

import jax
import jax.numpy as jnp

from medjax.layers.spatial import gather_space


def random_slices(key: jax.Array, rows: jax.Array, depth: int) -> jax.Array:
    """One of `depth` slices for each example, [B] int32, drawn by its row."""
    return jax.vmap(lambda row: jax.random.randint(jax.random.fold_in(key, row), (), 0, depth))(rows)


def take_slices(volumes: jax.Array, slices: jax.Array) -> jax.Array:
    """Slice `slices[i]` along D of volume i: [B, D, H, W, C] to [B, H, W, C], on a mesh cut along B alone.

    A masked sum: where devices share D it adds up one slice of each, where an index would gather the volumes.
    """
    chosen = jnp.arange(volumes.shape[1]) == slices[:, None]
    return gather_space(jnp.sum(jnp.where(chosen[:, :, None, None, None], volumes, 0.0), axis=1))
