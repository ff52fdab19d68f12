"""3D convolution: one function, four ways to lower it, on plain or folded volumes."""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from medjax.layers import winograd
from medjax.layers.fold import per_channel
from medjax.layers.spatial import FILLS, Convolve, Padding, Triple, convolve_split, replicate

LOWERINGS = ("direct", "planes", "stacked", "winograd")

# PyTorch's default for convolutions and linear layers, which the published models start from: U(-1, 1) / sqrt(fan_in).
uniform_fan_in = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Conv(nn.Module):
    """A 3D convolution of a volume [B, D, H, W/fold, fold * C].

    Attributes:
      features: output channels, before folding.
      kernel_size: of (D, H, W).
      strides: of (D, H, W).
      padding: (before, after) each of D, H, W; by default (k - 1) // 2 on both sides.
      fill: of the padding, one of `FILLS`.
      kernel_init: initializer of the kernel [kD, kH, kW, C, features]; the bias [features] starts at zero.
      dtype: of the computation; parameters are float32.
      lowering: one of `LOWERINGS`, see `conv3d`.
      fold: of the input and the output.
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
    """(before, after) of each axis that make n / s voxels of n, the odd one before: k - s in all."""
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
    """3D cross-correlation, as PyTorch's Conv3d computes it.

    Args:
      x: [B, D, H, W/fold, fold * C].
      kernel: [kD, kH, kW, C, features] of x's dtype.
      strides: of (D, H, W).
      padding: (before, after) each of D, H, W.
      lowering: the same to rounding, each fastest somewhere. "direct" is XLA's own 3D convolution; "planes" the sum of
        kD 2D convolutions over depth slices; "stacked" one 2D convolution over kD depth slices stacked into channels,
        which holds kD times the input in memory, and matrix products for the kernel's gradient; "winograd" a third of the
        multiplications, where it can and where it pays, and "stacked" elsewhere.
      fold: of x and of the result.
      fill: of the padding, one of `FILLS`.

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
    """The function (x, kernel, strides, padding) that convolves a whole volume, with zeros around it, in this way.

    Raises:
      ValueError: the lowering is unknown.
    """
    if lowering not in LOWERINGS:
        raise ValueError(f"convolution lowering {lowering!r}: choose one of {', '.join(LOWERINGS)}")
    return {"direct": _direct, "planes": _planes, "stacked": _stacked, "winograd": _winograd}[lowering]


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


def _stacked(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    if strides != (1, 1, 1):
        return _depth_stacked(x, kernel, strides, padding)
    return _stacked_unstrided(x, kernel, padding)


def _depth_stacked(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    b, taps = x.shape[0], kernel.shape[0]
    x = jnp.pad(x, ((0, 0), padding[0], (0, 0), (0, 0), (0, 0)))
    depth = (x.shape[1] - taps) // strides[0] + 1
    planes = [lax.slice_in_dim(x, i, i + (depth - 1) * strides[0] + 1, strides[0], axis=1) for i in range(taps)]
    stack = jnp.concatenate(planes, axis=-1)
    padding = padding[1:]
    height = (x.shape[2] + sum(padding[0]) - kernel.shape[1]) // strides[1] + 1
    if kernel.shape[1:3] != (1, 1) and not any(itertools.chain(*padding)):
        # XLA's CPU backend is ten times slower where there is no padding at all: one row more, which is dropped again.
        padding = ((0, strides[1]), (0, 0))
    y = lax.conv_general_dilated(
        stack.reshape(b * depth, *stack.shape[2:]),
        jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1]),
        strides[1:],
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[:, :height]
    return y.reshape(b, depth, *y.shape[1:])


def _winograd(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    # It saves multiplications, which voxels, channels and features all multiply; its transforms grow with channels plus
    # features, and those of the kernel do not shrink with the volume. The bounds were measured, see docs/benchmarks.md.
    voxels, products = math.prod(x.shape[:4]), math.prod(kernel.shape[3:])
    pays = voxels >= 8**3 and products >= 512 and min(kernel.shape[3:]) >= 8 and voxels * products >= 2**21
    pays = pays and x.dtype == jnp.float32  # bfloat16 would not bear its sums
    if pays and strides == (1, 1, 1) and kernel.shape[:3] == winograd.TAPS:
        return winograd.convolve(x, kernel, padding)
    return _stacked(x, kernel, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _stacked_unstrided(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """With a gradient of its own for the kernel."""
    return _depth_stacked(x, kernel, (1, 1, 1), padding)


def _stacked_forward(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _depth_stacked(x, kernel, (1, 1, 1), padding), (x, kernel)


def _stacked_backward(
    padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    _, of_x = jax.vjp(lambda x: _depth_stacked(x, kernel, (1, 1, 1), padding), x)
    return *of_x(dy), _kernel_gradient(x, dy, kernel.shape[:3], padding)


_stacked_unstrided.defvjp(_stacked_forward, _stacked_backward)


def _kernel_gradient(x: jax.Array, dy: jax.Array, taps: Triple, padding: Padding) -> jax.Array:
    """The gradient [kD, kH, kW, C, features] as matrix products, which CPUs do faster than XLA's convolution of x by dy.

    It is dk[i, j, l] = sum over v of x[v + (i, j, l)] dy[v]. The kW taps of dy are stacked into channels, so that every
    product is of the C channels of a shifted x with kW * features columns. Rows and columns lie in memory as such: XLA's CPU
    backend hands what would have to be transposed to a slower library, whose threads allocate in each other's way.
    """
    channels, features = x.shape[-1], dy.shape[-1]
    depth, height, width = dy.shape[1], dy.shape[2], x.shape[3]
    x = jnp.pad(x, ((0, 0), *padding[:2], (0, 0), (0, 0)))
    before, after = padding[2]
    edges = (taps[2] - 1 - before, taps[2] - 1 - after, 0)  # negative ones cut
    dy = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0),) * 3 + (edges, (0, 0, 0)))
    shifted = [lax.slice_in_dim(dy, taps[2] - 1 - i, taps[2] - 1 - i + width, axis=3) for i in range(taps[2])]
    columns = jnp.concatenate(shifted, axis=-1).reshape(-1, taps[2] * features)
    rows = jnp.moveaxis(x, -1, 0)

    def product(tap: jax.Array) -> jax.Array:
        start = (0, 0, tap // taps[1], tap % taps[1], 0)
        window = lax.dynamic_slice(rows, start, (channels, x.shape[0], depth, height, width))
        return window.reshape(channels, -1) @ columns

    # One after the other: XLA's CPU backend would make room for all the windows at once.
    products = lax.map(product, jnp.arange(taps[0] * taps[1]))
    return products.reshape(*taps[:2], channels, taps[2], features).swapaxes(2, 3)


def _folded(kernel: jax.Array, width: int, stride: int, padding: Padding, fold: int) -> tuple[jax.Array, Padding]:
    """The kernel and the padding with which folded volumes are convolved as the given ones convolve plain volumes.

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
