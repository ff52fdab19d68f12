"""Builds the factorised U-Net's blocks, which convolve within slices and leave depth to attention."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax.layers.conv import Conv, conv3d, uniform_fan_in
from medjax.layers.fold import per_channel
from medjax.layers.normalization import GroupNorm
from medjax.layers.spatial import constrain_volume

SLICE_KERNEL = (1, 3, 3)


class SliceResidualBlock(nn.Module):
    """Applies two 1x3x3 convolutions, each followed by GroupNorm and SiLU; the time scales and shifts the first norm's output.

    Attributes:
      features: output channels.
      groups: number of groups of the GroupNorms.
      dtype: data type of the computation.
      lowering: lowering of the convolutions.
    """

    features: int
    groups: int = 8
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array | None = None) -> jax.Array:
        """Maps x [B, D, H, W, C] and what it is conditioned on, [B, E] or None, to [B, D, H, W, features]."""
        h = GroupNorm(self.groups, name="norm_1")(self._conv("conv_1")(x))
        if embedding is not None:
            projection = nn.Dense(
                2 * self.features, kernel_init=uniform_fan_in, dtype=self.dtype, name="time_projection"
            )
            scale, shift = (per_channel(part, 1) for part in jnp.split(projection(nn.silu(embedding)), 2, axis=-1))
            h = h * (1 + scale) + shift
        h = nn.silu(GroupNorm(self.groups, name="norm_2")(self._conv("conv_2")(nn.silu(h))))
        if x.shape[-1] != self.features:
            x = self._conv("skip_conv", (1, 1, 1))(x)
        return x + h

    def _conv(self, name: str, kernel_size: tuple[int, int, int] = SLICE_KERNEL) -> Conv:
        return Conv(self.features, kernel_size, dtype=self.dtype, lowering=self.lowering, name=name)


class SliceUpsample(nn.Module):
    """Doubles H and W by a transposed 1x4x4 convolution of stride 2 and padding 1 that keeps the channels.

    In its sub-pixel form: each of the four voxels that one becomes is read off its 3x3 neighbours through its own four of
    the 16 taps, so a single 3x3 convolution to four times the channels makes them all.

    Attributes as in `SliceResidualBlock`. The kernel [1, 4, 4, C, C] holds the taps of the transposed convolution itself.
    """

    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        b, d, h, w, c = x.shape
        kernel = self.param("kernel", uniform_fan_in, (1, 4, 4, c, c), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (c,), jnp.float32)
        kernel, bias = sub_pixel_kernel(kernel).astype(self.dtype), bias.astype(self.dtype)
        y = conv3d(x.astype(self.dtype), kernel, (1, 1, 1), ((0, 0), (1, 1), (1, 1)), self.lowering)
        y = y.reshape(b, d, h, w, 2, 2, c).swapaxes(3, 4).reshape(b, d, 2 * h, 2 * w, c)
        return constrain_volume(y + bias)


def sub_pixel_kernel(kernel: jax.Array) -> jax.Array:
    """Turns [1, 4, 4, C, F] of a transposed convolution into [1, 3, 3, C, 4 * F], voxels (0, 0), (0, 1), (1, 0), (1, 1) in turn.

    Tap k carries input voxel m to output voxel 2 m + k - 1, so output 2 j + r reads m = j + i - 1 through k = 3 + r - 2 i.
    """
    i, r = np.arange(3)[:, None], np.arange(2)
    k = 3 + r - 2 * i
    # Taps are chosen by products: an index's gradient would be a scatter. Where k is no tap, none is chosen.
    chosen = (k[..., None] == np.arange(4)).astype(kernel.dtype)
    taps = jnp.einsum("irk,jsl,klcf->ijcrsf", chosen, chosen, kernel[0], precision=jax.lax.Precision.HIGHEST)
    return taps.reshape(1, 3, 3, kernel.shape[3], -1)
