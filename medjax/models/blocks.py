"""Builds the wavelet diffusion networks' residual blocks."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.conv import Conv, uniform_fan_in
from medjax.layers.fold import per_channel, refold
from medjax.layers.normalization import GroupNorm
from medjax.layers.resample import average_pool_2x, nearest_2x


class ResidualBlock(nn.Module):
    """Applies WDM's residual block: two 3x3x3 convolutions, each after GroupNorm and SiLU, told the time in between.

    Attributes:
      features: output channels.
      resample: "down" (2x average pooling) or "up" (nearest 2x) before the first convolution, on both paths, or None.
      keep_depth: resampling leaves D alone.
      scale_shift_norm: the time scales and shifts the second norm's output instead of being added before it.
      dropout: rate, before the second convolution.
      groups: number of groups of the GroupNorms.
      dtype: data type of the computation.
      lowering: lowering of the convolutions.
      fold: fold of the input.
      out_fold: fold of the output; differs from fold only where the block resamples.
    """

    features: int
    resample: str | None = None
    keep_depth: bool = False
    scale_shift_norm: bool = False
    dropout: float = 0.0
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"
    fold: int = 1
    out_fold: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool = False) -> jax.Array:
        """Maps x [B, D, H, W/fold, fold * C] and the time [B, E] to [B, D', H', W'/out_fold, out_fold * features]."""
        h, x = self._resampled(self._activated(x)), self._resampled(x)
        h = self._conv("conv_1", self.out_fold)(h)
        h = self._second_half(h, embedding, train)
        if x.shape[-1] != h.shape[-1]:
            x = self._conv("skip_conv", self.out_fold, kernel_size=(1, 1, 1))(x)
        return x + h

    def _activated(self, x: jax.Array) -> jax.Array:
        return nn.silu(GroupNorm(self.groups, fold=self.fold, name="norm_1")(x))

    def _second_half(self, h: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        """Computes the time, and all that follows the first convolution on the path that learns."""
        time_features = self.features * (2 if self.scale_shift_norm else 1)
        time_projection = nn.Dense(time_features, kernel_init=uniform_fan_in, dtype=self.dtype, name="time_projection")
        time = time_projection(nn.silu(embedding))
        norm_2 = GroupNorm(self.groups, fold=self.out_fold, name="norm_2")
        if self.scale_shift_norm:
            scale, shift = (per_channel(part, self.out_fold) for part in jnp.split(time, 2, axis=-1))
            h = norm_2(h) * (1 + scale) + shift
        else:
            h = norm_2(h + per_channel(time, self.out_fold))
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        return self._conv("conv_2", self.out_fold, kernel_init=nn.initializers.zeros)(h)

    def _conv(self, name: str, fold: int, **options) -> Conv:
        return Conv(self.features, dtype=self.dtype, lowering=self.lowering, fold=fold, name=name, **options)

    def _resampled(self, x: jax.Array) -> jax.Array:
        match self.resample:
            case "down":
                return average_pool_2x(x, self.keep_depth, self.fold, self.out_fold)
            case "up":
                return nearest_2x(x, self.keep_depth, self.fold, self.out_fold)
            case None:
                return refold(x, self.fold, self.out_fold)
        raise ValueError(f"resample {self.resample!r}: choose 'down', 'up' or None")
