"""Convolution with 3 x 3 x 3 taps by Winograd's F(2, 3) along D, H and W: 64 products where the sum has 216.

Two neighbouring outputs of three taps along an axis are four products and not six (Winograd 1980; Lavin and Gray, arXiv
1509.09308). In their notation

    y = A^T [(G g) * (B^T d)],    d four inputs, g three taps, y two outputs,

so a 2 x 2 x 2 cube of outputs is 64 products of the 4 x 4 x 4 cube of inputs that it reads. Summed over channels they are 64
matrix products, one for each place in a cube, of the channels of all cubes with a kernel. Cubes overlap and hold every voxel
eight times; two output planes are made at a time, so that this stays small.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medjax.layers.spatial import Padding, Triple

TAPS = (3, 3, 3)
SPACE = (1, 2, 3)  # axes of [B, D, H, W, C]

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
G3 = np.einsum("ai,bj,ck->cbaijk", G, G, G).reshape(64, 27)  # places along W, H, D by taps of D, H, W


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """3D cross-correlation with stride 1. In float32 its largest errors are some 4e-6 of what it gives, in standard deviations.

    Args:
      x: [B, D, H, W, C].
      kernel: [3, 3, 3, C, features].
      padding: zeros (before, after) each of D, H, W.

    Returns:
      [B, D', H', W', features].
    """
    size = tuple(n + before + after - 2 for n, (before, after) in zip(x.shape[1:4], padding, strict=True))
    x, transformed = _padded(x, _edges(padding, size)), _transformed(kernel)

    def pair_of_planes(index: jax.Array) -> jax.Array:
        cubes = _cubes(lax.dynamic_slice_in_dim(x, 2 * index, 4, axis=1))
        products = _products(cubes.reshape(64, -1, cubes.shape[-1]), transformed)
        return _outputs(products.reshape(*cubes.shape[:-1], -1))

    y = _joined(lax.map(pair_of_planes, _pairs(size)))
    return y[:, : size[0], : size[1], : size[2]]


def _forward(x: jax.Array, kernel: jax.Array, padding: Padding) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The gradients B [(G g) * (A dy)] of the inputs and G^T [(B^T d) * (A dy)] of the taps, which share A dy."""
    x, kernel = saved
    size, (channels, features) = dy.shape[1:4], kernel.shape[3:]
    edges = _edges(padding, size)
    x, transposed = _padded(x, edges), _transformed(kernel).swapaxes(1, 2)
    dy = jnp.pad(dy, ((0, 0), *((0, n % 2) for n in size), (0, 0)))
    by_channel = _by_channel(x)

    def pair_of_planes(carry: tuple[jax.Array, jax.Array], index: jax.Array) -> tuple[tuple, jax.Array]:
        of_kernel, overlap = carry
        spread = _spread(lax.dynamic_slice_in_dim(dy, 2 * index, 2, axis=1))
        places, spread = spread.shape[:-1], spread.reshape(64, -1, features)
        cubes = _cubes_by_channel(lax.dynamic_slice_in_dim(by_channel, 2 * index, 4, axis=0))
        of_kernel += _products(cubes.reshape(64, channels, -1), spread)
        planes = _gathered(_products(spread, transposed).reshape(*places, channels))
        return (of_kernel, planes[:, 2:]), planes[:, :2] + overlap

    zeros = (_zeros((64, channels, features), x), _zeros((x.shape[0], 2, *x.shape[2:]), x))
    (of_kernel, last), pairs = lax.scan(pair_of_planes, zeros, _pairs(size))
    dx = jnp.concatenate([_joined(pairs), last], axis=1)
    dx = _padded(dx, [(-before, -after) for before, after in edges])
    return dx, (G3.T @ of_kernel.reshape(64, -1)).reshape(kernel.shape)


convolve.defvjp(_forward, _backward)


def _transformed(kernel: jax.Array) -> jax.Array:
    """G g: [64, C, features]."""
    return (G3 @ kernel.reshape(27, -1)).reshape(64, *kernel.shape[3:])


def _edges(padding: Padding, size: Triple) -> list[tuple[int, int]]:
    """(before, after) each of D, H, W: the padding, and a plane more where the output's size is odd."""
    return [(before, after + n % 2) for (before, after), n in zip(padding, size, strict=True)]


def _padded(x: jax.Array, edges: list[tuple[int, int]]) -> jax.Array:
    """With zeros around it; negative edges cut."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*edge, 0) for edge in edges), (0, 0, 0)])


def _pairs(size: Triple) -> jax.Array:
    """Of output planes."""
    return jnp.arange((size[0] + 1) // 2)


def _joined(pairs: jax.Array) -> jax.Array:
    """[pairs, B, 2, H, W, C] to [B, D, H, W, C]."""
    planes = jnp.moveaxis(pairs, 0, 1)
    return planes.reshape(planes.shape[0], -1, *planes.shape[3:])


def _zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Zeros that, in a shard, vary over devices as `like` does: `scan` wants them to be what they become."""
    return jnp.where(True, jnp.zeros(shape, like.dtype), like[(0,) * like.ndim])


def _products(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """[64, n, k] by [64, k, m]: with the summed axis last and first, as XLA's CPU backend has it fastest."""
    return lax.dot_general(rows, columns, (((2,), (1,)), ((0,), (0,))))


def _weighted(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """B^T d along one axis."""
    return jnp.stack([a - c, b + c, c - b, b - d])


def _cubes(x: jax.Array) -> jax.Array:
    """B^T d of each cube: [B, D, H, W, C] to [4, 4, 4, B, d, h, w, C], the places along W, H and D first."""
    for axis in SPACE:  # in this order, which makes the small arrays of slices that lie far apart
        axis += x.ndim - 5
        count = x.shape[axis] // 2 - 1
        x = _weighted(*(lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis=axis) for i in range(4)))
    return x


def _by_channel(x: jax.Array) -> jax.Array:
    """[B, D, H, W, C] to [D, C, B, H, 2, W/2], even and odd columns apart."""
    b, d, h, w, c = x.shape
    return x.reshape(b, d, h, w // 2, 2, c).transpose(1, 5, 0, 2, 4, 3)


def _cubes_by_channel(x: jax.Array) -> jax.Array:
    """`_cubes` of four planes [4, C, B, H, 2, W/2]: [4, 4, 4, C, B, h, w]."""
    x = _weighted(*x)
    count = x.shape[3] // 2 - 1
    x = _weighted(*(lax.slice_in_dim(x, i, i + 2 * count - 1, 2, axis=3) for i in range(4)))
    even, odd = x[..., 0, :], x[..., 1, :]
    return _weighted(even[..., :-1], odd[..., :-1], even[..., 1:], odd[..., 1:])


def _outputs(products: jax.Array) -> jax.Array:
    """A^T m: [4, 4, 4, B, d, h, w, C] to [B, 2d, 2h, 2w, C]."""
    for axis in reversed(SPACE):
        a, b, c, d = products
        products = _interleaved(a + b + c, b - c - d, axis + a.ndim - 5)
    return products


def _spread(dy: jax.Array) -> jax.Array:
    """A dy: [B, 2d, 2h, 2w, C] to [4, 4, 4, B, d, h, w, C]."""
    for axis in SPACE:
        axis += dy.ndim - 5
        a, b = (lax.slice_in_dim(dy, i, dy.shape[axis], 2, axis=axis) for i in range(2))
        dy = jnp.stack([a, a + b, a - b, -b])
    return dy


def _gathered(cubes: jax.Array) -> jax.Array:
    """B m, of cubes that overlap by half: [4, 4, 4, B, d, h, w, C] to [B, 2d + 2, 2h + 2, 2w + 2, C]."""
    for axis in reversed(SPACE):
        a, b, c, d = cubes
        axis += a.ndim - 5
        even = _overlapped(a, b + c - a, axis)
        odd = _overlapped(b - c + d, -d, axis)
        cubes = _interleaved(even, odd, axis)
    return cubes


def _overlapped(own: jax.Array, of_next: jax.Array, axis: int) -> jax.Array:
    """own[i] + of_next[i - 1], one more than there are of each."""
    count = own.shape[axis]
    first, rest = jnp.split(own, [1], axis=axis)
    before, last = jnp.split(of_next, [count - 1], axis=axis)
    return jnp.concatenate([first, rest + before, last], axis=axis)


def _interleaved(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    pairs = jnp.stack([even, odd], axis=axis + 1)
    return pairs.reshape(*even.shape[:axis], -1, *even.shape[axis + 1 :])
