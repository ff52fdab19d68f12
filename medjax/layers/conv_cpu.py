"""Lowers a 3D convolution in two ways that are fast on CPUs: depth slices stacked into channels, and Winograd's algorithm."""

import functools
import itertools

import jax
import jax.numpy as jnp
from jax import lax

from medjax.layers import winograd
from medjax.layers.lowering import cpu_lowering_for
from medjax.layers.spatial import Padding, Triple


def stacked(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """Convolves depth slices stacked into channels in 2D."""
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


def winograd_or_stacked(x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """Convolves as the rows of `lowering.CPU_CONVOLUTIONS` say for this size."""
    if cpu_lowering_for(x.shape[:4], kernel.shape, strides, x.dtype) == "winograd":
        return winograd.convolve(x, kernel, padding)
    return stacked(x, kernel, strides, padding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _stacked_unstrided(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Computes `stacked` with strides of 1, with a gradient of its own for the kernel."""
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
    """Computes the gradient [kD, kH, kW, C, features] as matrix products, faster on CPUs than XLA's convolution of x by dy.

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
