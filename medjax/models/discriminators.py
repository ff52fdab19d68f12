"""Defines PatchGAN (arXiv 1611.07004) of slices and of volumes: it judges every patch, and gives the features that led to it.

Each layer makes n // stride + 1 voxels of n along an axis, which devices that share the axis could not share evenly. So
where a mesh cuts volumes they are first made longer, by zeros, such that each layer's voxels fit into evenly cut ones.
Voxels beyond a layer's own are set to zero again, as the next layer finds zeros around it anyway, and count nowhere.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from medjax.layers.batch_norm import BatchNorm
from medjax.layers.conv import conv3d, uniform_fan_in
from medjax.layers.spatial import constrain_volume, extend_split, gather_space, volume_spec, zero_beyond

KERNEL, PADDING = 4, 2
MOST_CHANNELS = 512

Size = tuple[int, ...]  # of a slice or a volume


class Features(NamedTuple):
    """Describes what a layer sees.

    Attributes:
      values: [B, *size, channels] float32, with zeros appended where a mesh cuts them.
      share: share of the values that are not appended.
    """

    values: jax.Array
    share: float


class PatchDiscriminator(nn.Module):
    """Judges slices [B, H, W, C] or volumes [B, D, H, W, C].

    Attributes:
      channels: number of channels of the first layer; the next have twice as many each, 512 at most.
      layers: that halve the resolution.
      dtype: data type of the computation; parameters, statistics, features and logits are float32.
      lowering: lowering of the convolutions of volumes.
    """

    channels: int = 64
    layers: int = 3
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, list[Features]]:
        """Logits, one a patch, in the shape of x but smaller, and the features of all layers before them."""
        size, features = x.shape[1:-1], []
        h, longer = self._extended(x.astype(self.dtype))
        for layer in range(self.layers + 1):
            width, stride = min(self.channels * 2**layer, MOST_CHANNELS), 2 if layer < self.layers else 1
            h, size = self._conv(f"conv_{layer}", h, width, stride, longer), _size_after(size, stride)
            if layer > 0:
                h = BatchNorm(name=f"norm_{layer}")(h, train, size)
            h = zero_beyond(nn.leaky_relu(h, 0.2), size)
            features.append(Features(h.astype(jnp.float32), math.prod(size) / math.prod(h.shape[1:-1])))
        logits = gather_space(self._conv(f"conv_{self.layers + 1}", h, 1, 1, longer).astype(jnp.float32))
        return logits[:, *(slice(n) for n in _size_after(size, 1))], features

    def _conv(self, name: str, x: jax.Array, width: int, stride: int, longer: tuple[bool, ...]) -> jax.Array:
        return PatchConv(width, stride, longer, self.dtype, self.lowering, name=name)(x)

    def _extended(self, x: jax.Array) -> tuple[jax.Array, tuple[bool, ...]]:
        """Appends zeros to x along the axes that the mesh in force cuts, and says which axes these are."""
        mesh = jax.sharding.get_abstract_mesh()
        if x.ndim == 4 or mesh.size <= 1:
            return x, (False,) * (x.ndim - 2)
        sizes = [x.shape[1:-1]]
        for layer in range(self.layers + 2):
            sizes.append(_size_after(sizes[-1], 2 if layer < self.layers else 1))
        new, spec = list(x.shape[1:3]), volume_spec(x.shape, mesh.shape)
        for i in (0, 1):
            if spec[i + 1]:
                unit = 2**self.layers * mesh.shape[spec[i + 1]]
                needed = max(size[i] * 2 ** min(layer, self.layers) for layer, size in enumerate(sizes))
                new[i] = -(-needed // unit) * unit
        return extend_split(constrain_volume(x), tuple(new)), (*(axis is not None for axis in spec[1:3]), False)


class PatchConv(nn.Module):
    """Convolves slices or volumes with a kernel of 4 and two zeros before and after.

    Attributes:
      features: output channels.
      stride: stride of every axis.
      longer: axes with zeros appended; of n there, n // stride are made.
      dtype: data type of the computation; parameters are float32.
      lowering: lowering of a convolution of volumes.
    """

    features: int
    stride: int
    longer: tuple[bool, ...]
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        axes = x.ndim - 2
        kernel_shape = ((KERNEL,) * axes) + (x.shape[-1], self.features)
        kernel = self.param("kernel", uniform_fan_in, kernel_shape, jnp.float32).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32).astype(self.dtype)
        strides = (self.stride,) * axes
        padding = tuple((PADDING, PADDING - self.stride if longer else PADDING) for longer in self.longer)
        if axes == 2:
            y = lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        else:
            y = conv3d(x, kernel, strides, padding, self.lowering)
        return y + bias


def _size_after(size: Size, stride: int) -> Size:
    return tuple(n // stride + 1 for n in size)
