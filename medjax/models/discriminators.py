"""PatchGAN (arXiv 1611.07004) of slices and of volumes: a judgement of every patch, and the features that led to it."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from medjax.layers.batch_norm import BatchNorm
from medjax.layers.conv import lowered, uniform_fan_in

KERNEL, PADDING = 4, 2
MOST_CHANNELS = 512


class PatchDiscriminator(nn.Module):
    """Judges slices [B, H, W, C] or volumes [B, D, H, W, C].

    Attributes:
      channels: of the first layer; the next have twice as many each, 512 at most.
      layers: that halve the resolution.
      dtype: of the computation; parameters, statistics, features and logits are float32.
      lowering: of the convolutions of volumes on one device.
    """

    channels: int = 64
    layers: int = 3
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, list[jax.Array]]:
        """Logits, one a patch, in the shape of x but smaller, and the features of all layers before them."""
        h, features = x.astype(self.dtype), []
        for layer in range(self.layers + 1):
            width = min(self.channels * 2**layer, MOST_CHANNELS)
            h = self._conv(f"conv_{layer}", h, width, stride=2 if layer < self.layers else 1)
            if layer > 0:
                h = BatchNorm(name=f"norm_{layer}")(h, train)
            h = nn.leaky_relu(h, 0.2)
            features.append(h.astype(jnp.float32))
        return self._conv(f"conv_{self.layers + 1}", h, 1, stride=1).astype(jnp.float32), features

    def _conv(self, name: str, x: jax.Array, width: int, stride: int) -> jax.Array:
        return PatchConv(width, stride, self.dtype, self.lowering, name=name)(x)


class PatchConv(nn.Module):
    """A convolution of kernel 4 with two zeros around slices or volumes: n voxels of an axis become n // stride + 1.

    Such numbers do not split evenly over devices. The compiler's own convolution may be cut unevenly and exchanges
    halos all the same, so on a mesh it is used, and its result is not pinned.

    Attributes:
      features: output channels.
      stride: of every axis.
      dtype: of the computation; parameters are float32.
      lowering: of a convolution of volumes on one device.
    """

    features: int
    stride: int
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        kernel_shape = ((KERNEL,) * axes) + (x.shape[-1], self.features)
        kernel = self.param("kernel", uniform_fan_in, kernel_shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        strides, padding = (self.stride,) * axes, ((PADDING, PADDING),) * axes
        if axes == 2:
            y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        else:
            on_one_device = jax.sharding.get_abstract_mesh().size <= 1
            y = lowered(self.lowering if on_one_device else "direct")(x, kernel, strides, padding)
        return y + bias
