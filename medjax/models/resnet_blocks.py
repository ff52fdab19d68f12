"""Defines the blocks of residual networks (arXiv 1512.03385) that are read and never trained, in 2D and 3D alike.

Batch norms use the statistics of training, which are parameters like any other here.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

EXPANSION = 4  # of a bottleneck's output, over its width


class BasicBlock(nn.Module):
    """Applies two convolutions of 3 voxels an edge beside the identity.

    Attributes:
      width: number of channels of both, and of the output.
      stride: stride of the first.
      dilation: dilation of both.
      projection: whether, where the shape changes, a convolution stands in for the identity; otherwise it is cut to every
        `stride`-th voxel and filled up with channels of zeros.
    """

    width: int
    stride: int = 1
    dilation: int = 1
    projection: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = convolution(x, self.width, 3, self.stride, self.dilation, name="conv1")
        h = nn.relu(FrozenBatchNorm(name="bn1")(h))
        h = FrozenBatchNorm(name="bn2")(convolution(h, self.width, 3, 1, self.dilation, name="conv2"))
        return nn.relu(shortcut(x, self.width, self.stride, self.projection) + h)


class Bottleneck(nn.Module):
    """Applies convolutions of 1, 3 and 1 voxels an edge beside the identity.

    Attributes:
      width: number of channels of the middle one; the output is four times as wide.
      stride: stride of the middle one, or of the first.
      dilation: dilation of the middle one.
      projection: see `BasicBlock`.
      stride_first: whether the first convolution strides, as in Keras; torchvision strides in the middle.
    """

    width: int
    stride: int = 1
    dilation: int = 1
    projection: bool = True
    stride_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first, middle = (self.stride, 1) if self.stride_first else (1, self.stride)
        h = nn.relu(FrozenBatchNorm(name="bn1")(convolution(x, self.width, 1, first, name="conv1")))
        h = convolution(h, self.width, 3, middle, self.dilation, name="conv2")
        h = nn.relu(FrozenBatchNorm(name="bn2")(h))
        h = FrozenBatchNorm(name="bn3")(convolution(h, EXPANSION * self.width, 1, name="conv3"))
        return nn.relu(shortcut(x, EXPANSION * self.width, self.stride, self.projection) + h)


class FrozenBatchNorm(nn.Module):
    """Computes (x - mean) / sqrt(var + 1e-5) * scale + bias, each [C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, zero = nn.initializers.ones, nn.initializers.zeros
        scale, bias, mean, var = (
            self.param(name, initial, x.shape[-1:], jnp.float32)
            for name, initial in (("scale", one), ("bias", zero), ("mean", zero), ("var", one))
        )
        return (x - mean) * (scale * jax.lax.rsqrt(var + 1e-5)) + bias


def shortcut(x: jax.Array, features: int, stride: int, projection: bool) -> jax.Array:
    """Shortcuts x to the shape of the block's output; for the body of a compact module."""
    if x.shape[-1] == features and stride == 1:
        return x
    if projection:
        return FrozenBatchNorm(name="downsample_1")(convolution(x, features, 1, stride, name="downsample_0"))
    x = x[(slice(None), *[slice(None, None, stride)] * (x.ndim - 2))]
    return jnp.pad(x, (*[(0, 0)] * (x.ndim - 1), (0, features - x.shape[-1])))


def stem(x: jax.Array) -> jax.Array:
    """Reduces x to a quarter of the resolution and 64 channels; for the body of a compact module."""
    x = nn.relu(FrozenBatchNorm(name="bn1")(convolution(x, 64, 7, stride=2, name="conv1")))
    axes = x.ndim - 2
    return nn.max_pool(x, (3,) * axes, (2,) * axes, [(1, 1)] * axes)


def convolution(
    x: jax.Array, features: int, kernel: int, stride: int = 1, dilation: int = 1, name: str | None = None
) -> jax.Array:
    """Convolves over all of space, without bias, padded as PyTorch does, starting from He's distribution."""
    return nn.Conv(
        features,
        (kernel,) * (x.ndim - 2),
        strides=stride,
        padding=dilation * (kernel // 2),
        kernel_dilation=dilation,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )(x)
