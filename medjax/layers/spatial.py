"""Volumes cut in space over a device mesh: which axes are cut where, and what neighbours exchange.

Networks do not know the mesh. It is in force while a function is traced (`runtime.mesh.on_mesh`), and then every layer
whose result is a volume keeps it cut: B over data and fsdp, D over depth and H over height, at each level where a shard
has at least `LEAST_PLANES` planes. Smaller levels are whole on every device of an axis. Without a mesh in force nothing
here does anything.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

LEAST_PLANES = 2  # a shard of fewer would fetch more than it computes
BATCH_AXES = ("data", "fsdp")
SPACE_AXES = ("depth", "height")  # of D and H

Triple = tuple[int, int, int]
Padding = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Convolve = Callable[[jax.Array, jax.Array, Triple, Padding], jax.Array]


def volume_spec(shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """How a volume [B, D, H, ...] lies on a mesh of these axis sizes."""
    rows = mesh["data"] * mesh["fsdp"]
    batch = BATCH_AXES if shape[0] % rows == 0 else None
    return PartitionSpec(batch, *(_cut(n, axis, mesh) for n, axis in zip(shape[1:3], SPACE_AXES, strict=True)))


def _cut(edge: int, axis: str, mesh: Mapping[str, int]) -> str | None:
    ways = mesh[axis]
    return axis if ways > 1 and edge % ways == 0 and edge // ways >= LEAST_PLANES else None


def keep_split(x: jax.Array) -> jax.Array:
    """Holds a volume [B, D, H, ...] to `volume_spec` on the mesh in force."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.size <= 1 else lax.with_sharding_constraint(x, volume_spec(x.shape, mesh.shape))


def keep_whole(x: jax.Array) -> jax.Array:
    """Gathers what space cut of an array [B, ...]: B alone stays over data and fsdp."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: none in force
        return x
    batch = volume_spec((x.shape[0], 1, 1), mesh.shape)[0]
    return lax.with_sharding_constraint(x, PartitionSpec(batch))


def convolve_split(convolve: Convolve, x: jax.Array, kernel: jax.Array, strides: Triple, padding: Padding) -> jax.Array:
    """`convolve(x, kernel, strides, padding)`, of a volume that may be cut along D and H.

    Each device fetches the few planes that its taps reach over the border from its two neighbours, zeros at the ends of
    the volume, and convolves what it has: two collective permutes an axis, and any way to convolve will do.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: none in force
        return convolve(x, kernel, strides, padding)
    # A kernel that fsdp cut is gathered once, before a lowering takes it apart.
    kernel = lax.with_sharding_constraint(kernel, PartitionSpec())
    spec = volume_spec(x.shape, mesh.shape)
    halos, inner = [], list(padding)
    for i in (0, 1):
        if spec[i + 1] is None:
            continue
        before, stride, planes = padding[i][0], strides[i], x.shape[i + 1] // mesh.shape[spec[i + 1]]
        after = kernel.shape[i] - stride - before  # what the last output of a shard reaches beyond it
        outputs = (x.shape[i + 1] + sum(padding[i]) - kernel.shape[i]) // stride + 1
        if planes % stride or outputs * stride != x.shape[i + 1] or not 0 <= after <= planes or before > planes:
            return keep_split(convolve(keep_split(x), kernel, strides, padding))
        halos.append((i + 1, spec[i + 1], before, after))
        inner[i] = (0, 0)
    if not halos:
        return keep_split(convolve(keep_split(x), kernel, strides, padding))

    def shard(x: jax.Array, kernel: jax.Array) -> jax.Array:
        for axis, name, before, after in halos:
            x = _with_halo(x, axis, name, mesh.shape[name], before, after)
        return convolve(x, kernel, strides, tuple(inner))

    y = jax.shard_map(shard, in_specs=(spec, PartitionSpec()), out_specs=spec)(x, kernel)
    return keep_split(y)  # a strided one may have left too few planes


def _with_halo(x: jax.Array, axis: int, name: str, ways: int, before: int, after: int) -> jax.Array:
    """A shard with the last `before` planes of the shard before it and the first `after` of the one behind it."""
    parts = [x]
    if before:
        last = lax.slice_in_dim(x, x.shape[axis] - before, x.shape[axis], axis=axis)
        parts.insert(0, lax.ppermute(last, name, [(i, i + 1) for i in range(ways - 1)]))
    if after:
        first = lax.slice_in_dim(x, 0, after, axis=axis)
        parts.append(lax.ppermute(first, name, [(i + 1, i) for i in range(ways - 1)]))
    return jnp.concatenate(parts, axis=axis)
