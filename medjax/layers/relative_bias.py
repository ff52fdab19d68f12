"""Biases attention by relative position (T5, arXiv 1910.10683): a number added to its logits for each distance."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax.layers.lookup import look_up

BUCKETS = 32  # half of them for positions before the query's, half for those after it
FARTHEST = 32  # this far apart and beyond shares the last bucket


class RelativeBias(nn.Module):
    """Learns a number for each head and each bucket of distances: float32 logits [heads, positions, positions].

    Attributes:
      heads: number of heads of the attention that adds it.
    """

    heads: int

    @nn.compact
    def __call__(self, positions: int) -> jax.Array:
        """Returns the bias of each query (the rows) towards each key."""
        table = self.param("table", nn.initializers.normal(1.0), (BUCKETS, self.heads), jnp.float32)
        return jnp.moveaxis(look_up(table, jnp.asarray(buckets(positions))), -1, 0)


def buckets(positions: int) -> np.ndarray:
    """Returns the bucket of each pair [query, key]: small distances have their own, larger ones share by their logarithm."""
    each_way = BUCKETS // 2
    exact = each_way // 2
    ahead = np.arange(positions)[None] - np.arange(positions)[:, None]
    distance = np.abs(ahead)
    # In float32, as published: it decides which bucket a distance on the border between two falls into.
    octaves = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.float32(np.log(FARTHEST / exact))
    shared = np.minimum(exact + (octaves * (each_way - exact)).astype(np.int64), each_way - 1)
    return np.where(distance < exact, distance, shared) + np.where(ahead > 0, each_way, 0)
