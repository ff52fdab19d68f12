"""Computes on volumes cut in space over a device mesh: which axes are cut where, and what neighbours exchange.

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
# What may lie beyond the ends of a volume, PyTorch's names to numpy's.
FILLS = {"zeros": "constant", "replicate": "edge", "reflect": "reflect", "circular": "wrap"}

Triple = tuple[int, int, int]
Padding = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Convolve = Callable[[jax.Array, jax.Array, Triple, Padding], jax.Array]


def volume_spec(shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """Returns how a volume [B, D, H, ...] lies on a mesh of these axis sizes."""
    rows = mesh["data"] * mesh["fsdp"]
    batch = BATCH_AXES if shape[0] % rows == 0 else None
    return PartitionSpec(batch, *(_cut(n, axis, mesh) for n, axis in zip(shape[1:3], SPACE_AXES, strict=True)))


def _cut(edge: int, axis: str, mesh: Mapping[str, int]) -> str | None:
    ways = mesh[axis]
    return axis if ways > 1 and edge % ways == 0 and edge // ways >= LEAST_PLANES else None


def constrain_volume(x: jax.Array) -> jax.Array:
    """Holds a volume [B, D, H, ...] to `volume_spec` on the mesh in force."""
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.size <= 1 else lax.with_sharding_constraint(x, volume_spec(x.shape, mesh.shape))


def replicate(kernel: jax.Array) -> jax.Array:
    """Gathers a parameter that is cut over devices, now: before it is made larger, as folding makes kernels."""
    mesh = jax.sharding.get_abstract_mesh()
    return kernel if mesh.size <= 1 else lax.with_sharding_constraint(kernel, PartitionSpec())


def gather_space(x: jax.Array) -> jax.Array:
    """Gathers what space cut of an array [B, ...]: B alone stays over data and fsdp."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: none in force
        return x
    batch = volume_spec((x.shape[0], 1, 1), mesh.shape)[0]
    return lax.with_sharding_constraint(x, PartitionSpec(batch))


def extend_split(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Appends zeros to D and H of a volume [B, D, H, ...] up to `size`, cut as evenly as before.

    Shards hold more planes afterwards, so all but the first pass some on; no device fetches more than it keeps.
    """
    mesh = jax.sharding.get_abstract_mesh()
    spec = volume_spec(x.shape, mesh.shape) if mesh.size > 1 else (None,) * 3
    for axis, new in zip((1, 2), size, strict=True):
        if spec[axis] is None:
            x = jnp.pad(x, [(0, (new - x.shape[axis]) * (i == axis)) for i in range(x.ndim)])
        elif new != x.shape[axis]:
            x = _extend_shards(x, axis, new // mesh.shape[spec[axis]], spec, mesh.shape[spec[axis]])
    return x


def _extend_shards(x: jax.Array, axis: int, new: int, spec: PartitionSpec, ways: int) -> jax.Array:
    old, name = x.shape[axis] // ways, spec[axis]

    def shard(own: jax.Array) -> jax.Array:
        # Shard i now begins `behind` planes behind where shard i + k began.
        shape = [new + 2 * old if i == axis else n for i, n in enumerate(own.shape)]
        taken = jnp.zeros(shape, own.dtype)
        for k in range(ways):
            pairs = [(i + k, i) for i in range(ways - k) if i * new - old < (i + k) * old < (i + 1) * new]
            if pairs:
                sent = lax.ppermute(own, name, pairs)
                behind = (lax.axis_index(name) + k) * old - lax.axis_index(name) * new
                start = [jnp.clip(behind + old, 0, new + old) if i == axis else 0 for i in range(own.ndim)]
                taken = lax.dynamic_update_slice(taken, lax.dynamic_slice(taken, start, own.shape) + sent, start)
        return lax.slice_in_dim(taken, old, old + new, axis=axis)

    return jax.shard_map(shard, in_specs=spec, out_specs=spec)(x)


def zero_beyond(x: jax.Array, extent: tuple[int, ...]) -> jax.Array:
    """Replaces what lies beyond the first `extent` of each axis of space by zeros, in x [B, *space, C]."""
    for i, (n, length) in enumerate(zip(extent, x.shape[1:-1], strict=True), start=1):
        if n < length:
            x = jnp.where(lax.broadcasted_iota(jnp.int32, x.shape, i) < n, x, 0)
    return x


def convolve_split(
    convolve: Convolve,
    x: jax.Array,
    kernel: jax.Array,
    strides: Triple,
    padding: Padding,
    fill: str = "zeros",
    taps: Triple | None = None,
) -> jax.Array:
    """Computes `convolve(x, kernel, strides, padding)` of a volume that may be cut along D and H.

    Each device fetches the few planes that its taps reach over the border from its two neighbours, and convolves what it
    has: two collective permutes an axis, and any way to convolve will do.

    Args:
      convolve: pads with zeros; it is asked for no padding where this function has seen to it.
      fill: values beyond the ends of the volume, one of `FILLS`.
      taps: number of planes of each axis that an output reads, if not as many as the kernel has.
    """
    taps = taps or kernel.shape[:3]
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: none in force
        return convolve(*_filled(x, padding, fill, kernel, strides))
    # A kernel that fsdp cut is gathered once, before a lowering takes it apart.
    kernel = lax.with_sharding_constraint(kernel, PartitionSpec())
    spec = volume_spec(x.shape, mesh.shape)
    halos, inner = [], list(padding)
    for i in (0, 1):
        if spec[i + 1] is None:
            continue
        before, stride, planes = padding[i][0], strides[i], x.shape[i + 1] // mesh.shape[spec[i + 1]]
        after = taps[i] - stride - before  # what the last output of a shard reaches beyond it
        outputs = (x.shape[i + 1] + sum(padding[i]) - taps[i]) // stride + 1
        reach = max(before, after) + (fill == "reflect")  # the outermost plane is not mirrored
        if planes % stride or outputs * stride != x.shape[i + 1] or after < 0 or reach > planes:
            return constrain_volume(convolve(*_filled(constrain_volume(x), padding, fill, kernel, strides)))
        halos.append((i + 1, spec[i + 1], before, after))
        inner[i] = (0, 0)
    if not halos:
        return constrain_volume(convolve(*_filled(constrain_volume(x), padding, fill, kernel, strides)))

    cut = tuple(jax.tree.leaves(tuple(spec)))  # axes of the mesh

    def shard(x: jax.Array, kernel: jax.Array) -> jax.Array:
        # Each shard has a gradient of its own of the kernel that all share; this one's gradient adds them up.
        kernel = lax.pcast(kernel, cut, to="varying")
        for axis, name, before, after in halos:
            x = _with_halo(x, axis, name, mesh.shape[name], before, after, fill)
        return convolve(*_filled(x, tuple(inner), fill, kernel, strides))

    y = jax.shard_map(shard, in_specs=(spec, PartitionSpec()), out_specs=spec)(x, kernel)
    return constrain_volume(y)  # a strided one may have left too few planes


def _filled(
    x: jax.Array, padding: Padding, fill: str, kernel: jax.Array, strides: Triple
) -> tuple[jax.Array, jax.Array, Triple, Padding]:
    """Returns the arguments of a convolution, which pads with zeros itself, with any other padding already in place."""
    if fill != "zeros":
        x = jnp.pad(x, ((0, 0), *padding, (0, 0)), mode=FILLS[fill])
        padding = ((0, 0),) * 3
    return x, kernel, strides, padding


def _with_halo(x: jax.Array, axis: int, name: str, ways: int, before: int, after: int, fill: str) -> jax.Array:
    """Joins a shard with the last `before` planes of the shard before it and the first `after` of the one behind it."""
    parts, n = [x], x.shape[axis]
    ring = ways if fill == "circular" else ways - 1

    def planes(start: int, stop: int) -> jax.Array:
        return lax.slice_in_dim(x, start, stop, axis=axis)

    def beyond(edge: int, mirrored: tuple[int, int], count: int, outermost: int, fetched: jax.Array) -> jax.Array:
        """Returns what was fetched, or where nobody was there to fetch from, what fills the border."""
        if fill in ("zeros", "circular"):
            return fetched
        if fill == "replicate":
            border = jnp.repeat(planes(edge, edge + 1), count, axis=axis)
        else:
            border = jnp.flip(planes(*mirrored), axis=axis)
        return jnp.where(lax.axis_index(name) == outermost, border, fetched)

    if before:
        last = lax.ppermute(planes(n - before, n), name, [(i, (i + 1) % ways) for i in range(ring)])
        parts.insert(0, beyond(0, (1, before + 1), before, 0, last))
    if after:
        first = lax.ppermute(planes(0, after), name, [((i + 1) % ways, i) for i in range(ring)])
        parts.append(beyond(n - 1, (n - 1 - after, n - 1), after, ways - 1, first))
    return jnp.concatenate(parts, axis=axis)
