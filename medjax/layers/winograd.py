"""Convolves with 3 x 3 x 3 taps by Winograd's F(2, 3) along D, H and W: 64 products where the sum has 216.

Two neighbouring outputs of three taps along an axis are four products and not six (Winograd 1980; Lavin and Gray, arXiv
1509.09308). In their notation

    y = A^T [(G g) * (B^T d)],    d four inputs, g three taps, y two outputs,

so a 2 x 2 x 2 cube of outputs is 64 products of the 4 x 4 x 4 cube of inputs that it reads. Summed over channels they are 64
matrix products, one for each place in a cube, of the channels of all cubes with a kernel. Cubes overlap and hold every voxel
eight times; so a few output planes are made at a time, and the places four by four, the four along D together: what a
product reads was written just before, and what is not together XLA may share out over threads.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medjax.layers.spatial import Padding, Triple

D, H, W = 1, 3, 4  # D of [B, D, H, W, C]; H and W of [4, B, D/2, H, W, C], with the four places along D in front

# XLA's CPU backend gives one thread this many elements of a matrix product's result. The forward block keeps two threads busy;
# the backward block is smaller, since other products run at the same time and more of it stays in the cache.
BLOCK = 65536

G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
G3 = np.einsum("ai,bj,ck->bcaijk", G, G, G).reshape(64, 27)  # places along H, W, D by taps of D, H, W

Four = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # places along one axis


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Computes a 3D cross-correlation with stride 1; its largest errors in float32 are about 4e-6 of the result's deviation.

    Args:
      x: [B, D, H, W, C].
      kernel: [3, 3, 3, C, features].
      padding: zeros (before, after) each of D, H, W.

    Returns:
      [B, D', H', W', features].
    """
    size = tuple(n + before + after - 2 for n, (before, after) in zip(x.shape[1:4], padding, strict=True))
    planes, count = _planes_at_a_time(x.shape[0], size, 2 * BLOCK // max(kernel.shape[3:]))
    x, transformed = _padded(x, _edges(padding, size, planes * count)), _transformed(kernel)

    def some_planes(index: jax.Array) -> jax.Array:
        cubes = jnp.stack(_of_inputs(_slab(x, D, index, planes, 2), D))
        rows = [
            _outputs(tuple(map(_each_row, _of_inputs(row, W), kernels)), W)
            for row, kernels in zip(_of_inputs(cubes, H), transformed, strict=True)
        ]
        return _outputs(_outputs(tuple(rows), H), D)

    return _joined(lax.map(some_planes, jnp.arange(count)))[:, : size[0], : size[1], : size[2]]


def _forward(x: jax.Array, kernel: jax.Array, padding: Padding) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return convolve(x, kernel, padding), (x, kernel)


def _backward(padding: Padding, saved: tuple[jax.Array, jax.Array], dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the gradients B [(G g) * (A dy)] of the inputs and G^T [(B^T d) * (A dy)] of the taps, which share A dy."""
    x, kernel = saved
    batch, size, (channels, features) = dy.shape[0], dy.shape[1:4], kernel.shape[3:]
    planes, count = _planes_at_a_time(batch, size, BLOCK // 4 // max(channels, features))
    edges = _edges(padding, size, planes * count)
    x, transposed = _padded(x, edges), _transformed(kernel).swapaxes(3, 4)
    dy = jnp.pad(dy, ((0, 0), (0, planes * count - size[0]), *((0, n % 2) for n in size[1:]), (0, 0)))
    channel_first = jnp.moveaxis(x.reshape(*x.shape[:3], -1, 2, channels), (5, 4), (0, 4))  # [C, B, D, H, 2, W/2]

    def some_planes(carry: tuple[list, jax.Array], index: jax.Array) -> tuple[tuple, jax.Array]:
        of_kernel, overlap = carry
        spread = jnp.stack(_of_gradients(_slab(dy, D, index, planes, 0), D))
        cubes = jnp.stack(_of_inputs(_slab(channel_first, D + 1, index, planes, 2), D + 1))  # [4, C, B, d, H, 2, W/2]
        of_taps, rows = [], []
        for row, cubes_row, kernels in zip(_of_gradients(spread, H), _of_inputs(cubes, H + 1), transposed, strict=True):
            places = _of_gradients(row, W)
            of_taps += map(_over_rows, _of_halves(cubes_row), places)
            rows.append(_gathered(tuple(map(_each_row, places, kernels)), W))
        dx = _gathered(_gathered(tuple(rows), H), D)
        own, over_the_end = jnp.split(dx.at[:, :2].add(overlap), [planes], axis=D)
        return ([a + b for a, b in zip(of_kernel, of_taps, strict=True)], over_the_end), own

    zeros = [_zeros((4, channels, features), x)] * 16, _zeros((batch, 2, *x.shape[2:]), x)
    (of_kernel, last), dx = lax.scan(some_planes, zeros, jnp.arange(count))
    dx = _padded(jnp.concatenate([_joined(dx), last], axis=D), [(-before, -after) for before, after in edges])
    return dx, (G3.T @ jnp.concatenate(of_kernel).reshape(64, -1)).reshape(kernel.shape)


convolve.defvjp(_forward, _backward)


def _planes_at_a_time(batch: int, size: Triple, rows: int) -> tuple[int, int]:
    """Returns an even number of output planes, about the fewest with that many cubes, and how many times it goes into all."""
    pairs, cubes_of_a_pair = (size[0] + 1) // 2, batch * ((size[1] + 1) // 2) * ((size[2] + 1) // 2)
    count = max(1, pairs * cubes_of_a_pair // max(1, rows))
    at_a_time = -(-pairs // min(count, pairs))
    return 2 * at_a_time, -(-pairs // at_a_time)


def _transformed(kernel: jax.Array) -> jax.Array:
    """Computes G g: [4, 4, 4, C, features], places along H, W and D."""
    return (G3 @ kernel.reshape(27, -1)).reshape(4, 4, 4, *kernel.shape[3:])


def _edges(padding: Padding, size: Triple, depth: int) -> list[tuple[int, int]]:
    """Returns (before, after) each of D, H, W: the padding, and what makes the outputs `depth` planes, H and W of them even."""
    more = (depth - size[0], size[1] % 2, size[2] % 2)
    return [(before, after + n) for (before, after), n in zip(padding, more, strict=True)]


def _padded(x: jax.Array, edges: list[tuple[int, int]]) -> jax.Array:
    """Pads with zeros; negative edges cut."""
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *((*edge, 0) for edge in edges), (0, 0, 0)])


def _slab(x: jax.Array, axis: int, index: jax.Array, planes: int, overlap: int) -> jax.Array:
    """Returns the planes of one turn, and the first of the next one's."""
    return lax.dynamic_slice_in_dim(x, planes * index, planes + overlap, axis=axis)


def _joined(slabs: jax.Array) -> jax.Array:
    """Joins [count, B, planes, H, W, C] to [B, D, H, W, C]."""
    slabs = jnp.moveaxis(slabs, 0, 1)
    return slabs.reshape(slabs.shape[0], -1, *slabs.shape[3:])


def _zeros(shape: tuple[int, ...], like: jax.Array) -> jax.Array:
    """Zeros that, in a shard, vary over devices as `like` does: `scan` wants them to be what they become."""
    return jnp.where(True, jnp.zeros(shape, like.dtype), like[(0,) * like.ndim])


# Rows and columns lie in memory as such, the summed axis last and first, as XLA's CPU backend has it fastest.


def _each_row(cubes: jax.Array, kernels: jax.Array) -> jax.Array:
    """Multiplies [4, B, d, h, w, C] by [4, C, features]."""
    rows = cubes.reshape(4, -1, cubes.shape[-1])
    return lax.dot_general(rows, kernels, (((2,), (1,)), ((0,), (0,)))).reshape(*cubes.shape[:-1], -1)


def _over_rows(cubes: jax.Array, spread: jax.Array) -> jax.Array:
    """Multiplies [4, C, B, d, h, w] by [4, B, d, h, w, features], to [4, C, features]."""
    columns, rows = cubes.reshape(*cubes.shape[:2], -1), spread.reshape(4, -1, spread.shape[-1])
    return lax.dot_general(columns, rows, (((2,), (1,)), ((0,), (0,))))


def _every_second(x: jax.Array, axis: int, start: int, count: int) -> jax.Array:
    return lax.slice_in_dim(x, start, start + 2 * count - 1, 2, axis=axis)


def _of_inputs(x: jax.Array, axis: int) -> Four:
    """Computes B^T d: from the n inputs of an axis n / 2 - 1 times four that overlap."""
    count = x.shape[axis] // 2 - 1
    a, b, c, d = (_every_second(x, axis, i, count) for i in range(4))
    return a - c, b + c, c - b, b - d


def _of_halves(x: jax.Array) -> Four:
    """Computes `_of_inputs` along W where its even and odd columns lie apart: [..., 2, W/2]."""
    even, odd = x[..., 0, :], x[..., 1, :]
    a, b, c, d = even[..., :-1], odd[..., :-1], even[..., 1:], odd[..., 1:]
    return a - c, b + c, c - b, b - d


def _of_gradients(dy: jax.Array, axis: int) -> Four:
    """Computes A dy: four from each two."""
    a, b = (_every_second(dy, axis, i, dy.shape[axis] // 2) for i in range(2))
    return a, a + b, a - b, -b


def _outputs(products: Four | jax.Array, axis: int) -> jax.Array:
    """Computes A^T m: two from each four."""
    a, b, c, d = products
    return _interleaved(a + b + c, b - c - d, axis)


def _gathered(products: Four | jax.Array, axis: int) -> jax.Array:
    """Computes B m: 2 n + 2 from n times four that overlap by half."""
    a, b, c, d = products
    even = _overlapped(a, b + c - a, axis)
    odd = _overlapped(b - c + d, -d, axis)
    return _interleaved(even, odd, axis)


def _overlapped(own: jax.Array, of_next: jax.Array, axis: int) -> jax.Array:
    """Returns own[i] + of_next[i - 1], one more than there are of each."""
    count = own.shape[axis]
    first, rest = jnp.split(own, [1], axis=axis)
    before, last = jnp.split(of_next, [count - 1], axis=axis)
    return jnp.concatenate([first, rest + before, last], axis=axis)


def _interleaved(even: jax.Array, odd: jax.Array, axis: int) -> jax.Array:
    pairs = jnp.stack([even, odd], axis=axis + 1)
    return pairs.reshape(*even.shape[:axis], -1, *even.shape[axis + 1 :])
