"""Normalizes batches, by running statistics that change as it trains."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.spatial import zero_beyond

EPSILON, MOMENTUM = 1e-5, 0.1  # PyTorch's defaults


class BatchNorm(nn.Module):
    """Normalizes batches (arXiv 1502.03167) [B, ..., C]; statistics in float32, over the batch of all devices together.

    The collection "batch_stats" holds `mean` and `var` [C], the latter unbiased, as PyTorch counts it (Flax's own does
    not): a tenth of each training batch's.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, extent: tuple[int, ...] | None = None) -> jax.Array:
        """Normalizes x by its own statistics, which the running ones then follow, or, not training, by the running ones.

        Args:
          extent: number of voxels of each axis of space that count, if not all.
        """
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)

        y = x.astype(jnp.float32)
        if train:
            extent = extent or x.shape[1:-1]
            count, axes = len(x) * math.prod(extent), tuple(range(x.ndim - 1))

            def mean_of(values: jax.Array) -> jax.Array:
                return jnp.sum(zero_beyond(values, extent), axis=axes) / count

            mean = mean_of(y)
            var = mean_of((y - mean) ** 2)
            if not self.is_initializing():
                running_mean.value += MOMENTUM * (mean - running_mean.value)
                running_var.value += MOMENTUM * (var * (count / max(1, count - 1)) - running_var.value)
        else:
            mean, var = running_mean.value, running_var.value
        return ((y - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias).astype(x.dtype)
