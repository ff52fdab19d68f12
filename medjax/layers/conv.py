"""Convolves in 3D: one function, four ways to lower it, on plain or folded volumes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from medjax.layers.conv_cpu import stacked, winograd_or_stacked
from medjax.layers.fold import per_channel
from medjax.layers.spatial import FILLS, Convolve, Padding, Triple, convolve_split, replicate

LOWERINGS = ("direct", "planes", "stacked", "winograd")

# PyTorch's default for convolutions and linear layers, which the published models start from: U(-1, 1) / sqrt(fan_in).
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """Convolves a volume [B, D, H, W/fold, fold * C] in 3D.

    Attributes:
      features: output channels, before folding.
      kernel_size: size of the kernel along (D, H, W).
      strides: strides along (D, H, W).
      padding: (before, after) each of D, H, W; by default (k - 1) // 2 on both sides.
      fill: values of the padding, one of `FILLS`.
      kernel_init: initializer of the kernel [kD, kH, kW, C, features]; the bias [features] starts at zero.
      dtype: data type of the computation; parameters are float32.
      lowering: one of `LOWERINGS`, see `conv3d`.
      fold: fold of the input and the output.
    """

    features: int
    kernel_size: Triple = (3, 3, 3)
    strides: Triple = (1, 1, 1)
    padding: Padding | None = None
    fill: str = "zeros"
    kernel_init: Callable = uniform_fan_in
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"
    fold: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_shape = (*self.kernel_size, x.shape[-1] // self.fold, self.features)
        kernel = self.param("kernel", self.kernel_init, kernel_shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        padding = self.padding or tuple(((k - 1) // 2, (k - 1) // 2) for k in self.kernel_size)
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        y = conv3d(x, kernel, self.strides, padding, self.lowering, self.fold, self.fill)
        return y + per_channel(bias, self.fold)


def same_padding(kernel_size: Triple, strides: Triple) -> Padding:
    """Returns (before, after) of each axis that make n / s voxels of n, the odd one before: k - s in all."""
    totals = [k - s for k, s in zip(kernel_size, strides, strict=True)]
    return tuple((total - total // 2, total // 2) for total in totals)


def conv3d(
    x: jax.Array,
    kernel: jax.Array,
    strides: Triple,
    padding: Padding,
    lowering: str = "direct",
    fold: int = 1,
    fill: str = "zeros",
) -> jax.Array:
    """Computes a 3D cross-correlation, as PyTorch's Conv3d does.

    Args:
      x: [B, D, H, W/fold, fold * C].
      kernel: [kD, kH, kW, C, features] of x's dtype.
      strides: strides along (D, H, W).
      padding: (before, after) each of D, H, W.
      lowering: way to compute it, the same to rounding, each fastest somewhere. "direct" is XLA's own; "planes" the sum of
        kD 2D convolutions over depth slices; "stacked" one 2D convolution over kD depth slices stacked into channels,
        which holds kD times the input in memory, and matrix products for the kernel's gradient; "winograd" a third of the
        multiplications for the convolutions that `lowering.CPU_CONVOLUTIONS` names, and "stacked" for all others.
      fold: fold of x and of the result.
      fill: values of the padding, one of `FILLS`.

    Returns:
      [B, D', H', W'/fold, fold * features].

    Raises:
      ValueError: the lowering or the fill is unknown, a folded volume is to be padded with anything but zeros, or the
        output's width is not a multiple of fold.
    """
    if fill not in FILLS or (fill != "zeros" and fold > 1):
        raise ValueError(f"padding with {fill!r}: choose one of {', '.join(FILLS)}; of folded volumes, zeros")
    convolve = lowered(lowering)
    if fold > 1:
        kernel, padding = _folded(replicate(kernel), x.shape[3] * fold, strides[2], padding, fold)
    return convolve_split(convolve, x, kernel, strides, padding, fill)


def lowered(lowering: str) -> Convolve:
    """Returns the function (x, kernel, strides, padding) that convolves a whole volume, padded with zeros, in this way.

    Raises:
      ValueError: the lowering is unknown.
    """
    if lowering not in LOWERINGS:
        raise ValueError(f"convolution lowering {lowering!r}: choose one of {', '.join(LOWERINGS)}")
    return {"direct": _direct, "planes": _planes, "stacked": stacked, "winograd": winograd_or_stacked}[lowering]


def _direct(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def _planes(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    b = x.shape[0]
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    depth = (x.shape[1] - kernel.shape[0]) // strides[0] + 1
    total = 0
    for i in range(kernel.shape[0]):
        planes = lax.slice_in_dim(x, i, i + (depth - 1) * strides[0] + 1, strides[0], axis=1)
        total = total + lax.conv_general_dilated(
            planes.reshape(b * depth, *x.shape[2:]),
            kernel[i],
            strides[1:],
            padding[1:],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    return total.reshape(b, depth, *total.shape[1:])


def _folded(kernel: jax.Array, width: int, stride: int, padding: Padding, fold: int) -> tuple[jax.Array, Padding]:
    """Returns the kernel and the padding with which folded volumes are convolved as the given ones convolve plain volumes.

    Output voxel j of a folded position reads input voxel stride * j - before + k through tap k. Counted from the same
    folded position that is voxel i of folded tap t, where fold * t + i is that number; all other entries are zero.
    """
    before, after = padding[2]
    taps, channels, features = kernel.shape[2:]
    out_width = (width + before + after - taps) // stride + 1
    if out_width % fold:
        raise ValueError(f"a convolution gives a width of {out_width}: it cannot be folded by {fold}")
    first, last = -before // fold, (stride * (fold - 1) - before + taps - 1) // fold
    t, i, j = np.ogrid[first : last + 1, :fold, :fold]
    k = fold * t + i - (stride * j - before)
    k = np.where((k >= 0) & (k < taps), k, taps)  # index `taps` is a tap of zeros
    padded = jnp.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0), (0, 0)))
    folded = padded[:, :, k].transpose(0, 1, 2, 3, 5, 4, 6)  # [kD, kH, t, i, C, j, features]
    folded = folded.reshape(*kernel.shape[:2], last - first + 1, fold * channels, fold * features)
    end = (out_width // fold - 1) * stride + last + 1 - width // fold
    return folded, (padding[0], padding[1], (-first, end))
