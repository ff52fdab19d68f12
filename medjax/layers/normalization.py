"""Normalizes plain or folded volumes by groups of channels."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.fold import per_channel
from medjax.layers.spatial import constrain_volume


class GroupNorm(nn.Module):
    """Normalizes by groups (arXiv 1803.08494) a volume [B, D, H, W/fold, fold * C]; statistics in float32.

    Attributes:
      groups: the C channels are split in this many groups of neighbours.
      epsilon: added to the variance; 1e-5 is PyTorch's default.
      fold: fold of the input.

    Raises:
      ValueError: C is not a multiple of groups.
    """

    groups: int = 32
    epsilon: float = 1e-5
    fold: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, statistics: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
        """Normalizes x by its own mean and variance, or by the mean and variance [B, groups] of the volume it is a part of."""
        channels = x.shape[-1] // self.fold
        if channels % self.groups:
            raise ValueError(f"GroupNorm of {channels} channels in {self.groups} groups: choose groups that divide it")
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        y = constrain_volume(x).astype(jnp.float32)
        if statistics is None:
            mean = self._group_mean(y)
            # The mean of the squared differences: E[x^2] - E[x]^2 cancels in float32 where volumes are large. Its derivative
            # by the mean is that of the differences, zero; not to ask for it saves the gradient a pass over the volume.
            variance = self._group_mean((y - jax.lax.stop_gradient(mean)) ** 2)
        else:
            mean, variance = (self._by_channel(values, channels) for values in statistics)
        y = (y - mean) * (jax.lax.rsqrt(variance + self.epsilon) * per_channel(scale, self.fold))
        return (y + per_channel(bias, self.fold)).astype(x.dtype)

    def _group_mean(self, x: jax.Array) -> jax.Array:
        """Returns [B, 1, 1, 1, fold * C]: for each channel the mean of its group, over space and folded voxels too.

        Space goes first, so that the reduction over volumes keeps their own layout.
        """
        means = x.mean(axis=(1, 2, 3)).reshape(x.shape[0], self.fold, self.groups, -1).mean(axis=(1, 3))
        return self._by_channel(means, x.shape[-1] // self.fold)

    def _by_channel(self, values: jax.Array, channels: int) -> jax.Array:
        """Expands [B, groups] to [B, 1, 1, 1, fold * C]."""
        return per_channel(jnp.repeat(values, channels // self.groups, axis=-1), self.fold)
