"""Batch normalization, whose running statistics change as it trains."""

import jax
import jax.numpy as jnp
from flax import linen as nn

EPSILON, MOMENTUM = 1e-5, 0.1  # PyTorch's defaults


class BatchNorm(nn.Module):
    """Batch normalization (arXiv 1502.03167) of [B, ..., C]; statistics in float32, over the batch of all devices together.

    The collection "batch_stats" holds `mean` and `var` [C], the latter unbiased, as PyTorch counts it (Flax's own does
    not): a tenth of each training batch's.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x by its own statistics, which the running ones then follow, or, not training, by the running ones."""
        channels = x.shape[-1]
        mean_of = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var_of = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)

        y = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            mean = y.mean(axis=axes)
            var = jnp.mean((y - mean) ** 2, axis=axes)
            count = x.size // channels
            if not self.is_initializing():
                mean_of.value += MOMENTUM * (mean - mean_of.value)
                var_of.value += MOMENTUM * (var * (count / max(1, count - 1)) - var_of.value)
        else:
            mean, var = mean_of.value, var_of.value
        return ((y - mean) * (jax.lax.rsqrt(var + EPSILON) * scale) + bias).astype(x.dtype)
