"""Computes transposed convolutions of kernel 4, which double or keep each axis, as ordinary ones (arXiv 1609.05158).

Along an axis that is doubled, an even voxel of the result reads two neighbouring input voxels through two of the four
taps, and an odd one two through the others. So a convolution of kernel 2 that gives the even and the odd side by side in
its channels, shuffled into place, is the same sum, multiplication for multiplication. Its gradients are those of a
convolution, which every platform does well; those of a transposed one are tens of times slower.
"""

import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.conv import lowered, same_padding
from medjax.layers.spatial import Padding, Triple, convolve_split

KERNEL = (4, 4, 4)

# PyTorch's default, which takes the features of a transposed kernel for its inputs.
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", in_axis=-1, out_axis=-2)


class ConvTranspose(nn.Module):
    """Maps [B, D, H, W, C] to [B, sD, sH, sW, features]; the input is padded with its outermost voxels.

    Attributes:
      features: output channels.
      strides: strides along (D, H, W), 1 or 2 each.
      dtype: data type of the computation; parameters are float32.
      lowering: lowering of the convolution, see `conv.conv3d`.
    """

    features: int
    strides: Triple = (2, 2, 2)
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", uniform_fan_in, (*KERNEL, x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        return conv_transpose3d(x, kernel, self.strides, self.lowering) + bias


def conv_transpose3d(x: jax.Array, kernel: jax.Array, strides: Triple, lowering: str = "direct") -> jax.Array:
    """Computes PyTorch's ConvTranspose3d with padding 3, of a volume padded with its outermost voxels by `same_padding`.

    Args:
      x: [B, D, H, W, C].
      kernel: [4, 4, 4, C, features] of x's dtype: PyTorch's [C, features, 4, 4, 4] with its axes moved.
      strides: strides along (D, H, W), 1 or 2 each.
      lowering: see `conv.conv3d`.

    Returns:
      [B, sD, sH, sW, features].

    Raises:
      ValueError: the kernel is not 4 wide, a stride is neither 1 nor 2, or the lowering is unknown.
    """
    if kernel.shape[:3] != KERNEL or not set(strides) <= {1, 2}:
        raise ValueError(f"transposed convolution of kernel {kernel.shape[:3]}, strides {strides}: give 4, and 1 or 2")
    convolve = lowered(lowering)

    def sub_pixel(padded: jax.Array, kernel: jax.Array, strides_of_ways: Triple, padding: Padding) -> jax.Array:
        ways = convolve(padded, _side_by_side(kernel, strides), strides_of_ways, padding)
        return _shuffled(ways, strides, kernel.shape[-1])

    reached = tuple(3 if stride == 2 else 4 for stride in strides)  # by both ways together
    return convolve_split(sub_pixel, x, kernel, (1, 1, 1), same_padding(KERNEL, strides), "replicate", reached)


def _side_by_side(kernel: jax.Array, strides: Triple) -> jax.Array:
    """Returns the kernels [4 / s, 4 / s, 4 / s, C, s * s * s * features] of all ways.

    Along an axis the only way reads the padded input with the taps 3, 2, 1, 0; of two ways the one with 3, 1 and the other
    with 2, 0. These are slices and no indices, whose gradient would be a scatter, which GPUs add up in any order.
    """
    last_first = jnp.flip(kernel, axis=(0, 1, 2))
    ways = [
        last_first[tuple(slice(way, None, stride) for stride, way in zip(strides, each, strict=True))]
        for each in itertools.product(*map(range, strides))
    ]
    return jnp.concatenate(ways, axis=-1)


def _shuffled(ways: jax.Array, strides: Triple, features: int) -> jax.Array:
    """Returns the result from [B, D', H', W', s * s * s * features], in which way 1 of an axis comes one voxel late."""
    b, *edges = ways.shape[:4]
    size = [edge - (stride - 1) for edge, stride in zip(edges, strides, strict=True)]
    ways = ways.reshape(b, *edges, *strides, features)
    parts = [
        ways[(slice(None), *(slice(way, way + n) for way, n in zip(each, size, strict=True)), *each)]
        for each in itertools.product(*map(range, strides))
    ]
    cubes = jnp.stack(parts, axis=4).reshape(b, *size, *strides, features)
    cubes = cubes.transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return cubes.reshape(b, *(n * stride for n, stride in zip(size, strides, strict=True)), features)
