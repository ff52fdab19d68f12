"""Takes volumes too large for a network at once through it in overlapping tiles, blended where they overlap.

Convolutions look a few voxels far, but a group norm looks at the whole volume: normalized tile by tile, tiles would not
fit each other. So the volume's own means and variances are found first, over all tiles. Those of the first norm are right
after one pass, which makes the input of the second norm right, and so on: as many passes as there are norms.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from medjax.layers.normalization import GroupNorm

Statistics = list[tuple[jax.Array, jax.Array]]  # mean and variance, [B, groups] each, of each norm in turn
Places = tuple[jax.Array, ...]  # one row a tile: its corner, its result's corner, and the shares of D, H and W


def in_tiles(
    function: Callable[[jax.Array], jax.Array],
    x: jax.Array,
    tile: Sequence[int],
    overlap: Sequence[int],
    scale: Sequence[int | Fraction],
) -> jax.Array:
    """Computes `function(x)` by tiles: the same but for what it would see beyond a tile's border.

    The outer quarter of the overlap is context only, with weight 0; the weight then rises linearly over half of the overlap.
    The weights of all tiles that cover a voxel sum to one. The function is compiled once, or twice if it has group norms.

    Args:
      function: maps [B, D, H, W, C] to [B, sD, sH, sW, C']; it may apply modules with group norms, without rematerialization.
      x: [B, D, H, W, C].
      tile: (D, H, W) of a tile; an axis of x that is no longer is taken whole.
      overlap: overlap of neighbouring tiles along each axis, less than the tile; the last two of an axis may share more.
      scale: s of each axis, a Fraction where the result has fewer; the tile and the overlap times s are whole.

    Returns:
      [B, sD, sH, sW, C'] float32.

    Raises:
      ValueError: tiles do not advance, or an axis, its tile or the overlap does not come out whole.
    """
    size = x.shape[1:4]
    tile = tuple(min(edge, n) for edge, n in zip(tile, size, strict=True))
    for n, edge, shared, s in zip(size, tile, overlap, scale, strict=True):
        if edge < n and not 0 <= shared < edge:
            raise ValueError(f"tiles of {edge} that share {shared} do not advance: let them share less than they have")
        if any(Fraction(count * s).denominator > 1 for count in (n, edge, shared)):
            raise ValueError(f"{n} in tiles of {edge} that share {shared}, each times {s}: make all of them whole")
    places = _places(size, tile, overlap, scale)

    def run(place: Places, statistics: Statistics) -> tuple[jax.Array, Statistics]:
        """Returns a tile's result, and what it adds to the sums of values and of their squares, each less the mean."""
        piece = lax.dynamic_slice(x, (0, *place[0], 0), (len(x), *tile, x.shape[-1]))
        return _with_statistics(function, piece, statistics, place[2:], size, tile)

    first = jax.tree.map(lambda rows: rows[0], places)
    norms = jax.eval_shape(lambda: run(first, [])[1])
    result = jax.eval_shape(lambda: run(first, [])[0])

    def measure(_: int, statistics: Statistics) -> Statistics:
        def add(sums: Statistics, place: Places) -> tuple[Statistics, None]:
            return jax.tree.map(jnp.add, sums, run(place, statistics)[1]), None

        sums, _ = lax.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), norms), places)
        return [(mean + off, squares - off**2) for (mean, _), (off, squares) in zip(statistics, sums, strict=True)]

    start = [(jnp.zeros(mean.shape), jnp.ones(variance.shape)) for mean, variance in norms]
    statistics = lax.fori_loop(0, len(norms), measure, start) if norms else []

    def blend(total: jax.Array, place: Places) -> tuple[jax.Array, None]:
        corner = (0, *place[1], 0)
        so_far = lax.dynamic_slice(total, corner, result.shape)
        share = _share(place[2:], result.shape[1:4])
        return lax.dynamic_update_slice(total, so_far + run(place, statistics)[0] * share, corner), None

    out_size = (int(n * s) for n, s in zip(size, scale, strict=True))
    return lax.scan(blend, jnp.zeros((len(x), *out_size, result.shape[-1])), places)[0]


def _with_statistics(
    function: Callable,
    piece: jax.Array,
    statistics: Statistics,
    shares: Places,
    size: Sequence[int],
    tile: Sequence[int],
) -> tuple[jax.Array, Statistics]:
    """Computes `function(piece)` with group norms by these statistics, or by the piece's own beyond them, and what they see."""
    seen: Statistics = []

    def normalize(norm: Callable, arguments: tuple, options: dict, context: nn.module.InterceptorContext):
        if not isinstance(context.module, GroupNorm) or context.method_name != "__call__":
            return norm(*arguments, **options)
        x, groups, number = arguments[0], context.module.groups, len(seen)
        given = statistics[number] if number < len(statistics) else None
        mean = 0.0 if given is None else given[0][:, None, None, None, :, None]
        voxels = math.prod(n * edge // whole for n, edge, whole in zip(size, x.shape[1:4], tile, strict=True))
        off = x.astype(jnp.float32).reshape(*x.shape[:4], groups, -1) - mean
        share = _share(shares, x.shape[1:4])[..., None] / (voxels * off.shape[-1])
        seen.append(tuple(jnp.sum(values * share, axis=(1, 2, 3, 5)) for values in (off, off**2)))
        return norm(x, given)

    with nn.intercept_methods(normalize):
        return function(piece), seen


def _share(shares: Places, size: Sequence[int]) -> jax.Array:
    """Returns what a tile counts, at the resolution at which it has this size: [D, H, W, 1]."""
    depth, height, width = (share.reshape(edge, -1).mean(axis=1) for share, edge in zip(shares, size, strict=True))
    return depth[:, None, None, None] * height[:, None, None] * width[:, None]


def _places(
    size: Sequence[int], tile: Sequence[int], overlap: Sequence[int], scale: Sequence[int | Fraction]
) -> Places:
    """Weighs all tiles; the shares at the finer of the input's and the result's resolution."""
    axes = [_axis(*each) for each in zip(size, tile, overlap, scale, strict=True)]
    corners = np.array(list(itertools.product(*(starts for starts, _ in axes))), np.int32)
    out_corners = np.array(
        [[int(i * s) for i, s in zip(row, scale, strict=True)] for row in corners.tolist()], np.int32
    )
    shares = zip(*itertools.product(*(shares for _, shares in axes)), strict=True)
    return (jnp.array(corners), jnp.array(out_corners), *(jnp.array(np.stack(rows)) for rows in shares))


def _axis(size: int, tile: int, overlap: int, scale: int | Fraction) -> tuple[list[int], np.ndarray]:
    """Returns where the tiles of an axis start, and what each voxel of each counts, [tiles, tile at the finer resolution]."""
    starts = sorted({*range(0, size - tile, max(1, tile - overlap)), size - tile})
    finer = max(1, int(scale))
    size, tile, overlap = size * finer, tile * finer, overlap * finer
    ramp = overlap - 2 * (overlap // 4)
    rising = np.clip((np.arange(overlap, dtype=np.float32) - overlap // 4 + 1) / (ramp + 1), 0.0, 1.0)
    shares = np.ones((len(starts), tile), np.float32)
    shares[1:, :overlap] = rising
    shares[:-1, tile - overlap :] *= rising[::-1]
    spans = [slice(start * finer, start * finer + tile) for start in starts]
    total = np.zeros(size, np.float32)
    for span, row in zip(spans, shares, strict=True):
        total[span] += row
    return starts, np.stack([row / total[span] for span, row in zip(spans, shares, strict=True)])
