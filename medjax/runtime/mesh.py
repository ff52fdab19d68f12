"""Makes the device mesh `data` x `fsdp` x `depth` x `height`, and lays batches on it.

A batch [B, D, H, W, C] is split over data x fsdp along B, over depth along D and over height along H, where these divide
it. Every other axis is whole on every device. A mesh axis of size 1 costs nothing, so one device is the same code as a pod.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from medjax.errors import UserError
from medjax.layers.spatial import volume_spec
from medjax.runtime.placement import arrange, islands_of

AXES = ("data", "fsdp", "depth", "height")


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh over the first devices, axes in the order of `AXES`.

    Args:
      sizes: devices along each axis; `data` may be -1 for "what the others leave". `across`, if it is there and true, lets a
        volume be cut between slices or nodes.
      devices: devices to choose from, all there are by default; described ones, which cannot run anything, do as well.

    Raises:
      UserError: a size is not positive, there are too few devices, or a volume would be cut between slices or nodes.
    """
    devices = jax.devices() if devices is None else devices
    shape = [int(sizes[axis]) for axis in AXES]
    for axis, size in zip(AXES, shape, strict=True):
        if size < 1 and not (axis == "data" and size == -1):
            raise UserError(f"mesh.{axis} is {size}: give a number of devices, 1 or more (mesh.data may be -1)")
    if shape[0] == -1:
        shape[0] = max(1, len(devices) // math.prod(shape[1:]))
    wanted = math.prod(shape)
    if wanted > len(devices):
        described = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape, strict=True) if size > 1)
        raise UserError(f"{described} asks for {wanted} devices, found {len(devices)}: make the mesh smaller")
    if jax.process_count() > 1 and wanted != len(devices):
        raise UserError(f"the mesh uses {wanted} of {len(devices)} devices: with several processes it must use all")
    chosen = list(itertools.chain(*islands_of(devices)))[:wanted]
    sizes_of_all = dict(zip(AXES, shape, strict=True))
    arranged = arrange(sizes_of_all, chosen, wanted == len(devices), bool(sizes.get("across", False)))
    # Auto axes let the compiler partition convolutions; under JAX's default, Explicit, they raise a ShardingTypeError.
    return Mesh(arranged, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """Puts the mesh in force while `function` is traced, so that layers know how volumes are cut (layers/spatial)."""

    @functools.wraps(function)
    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def batch_ways(mesh: Mesh) -> int:
    """Counts the parts into which the batch axis is cut."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def check_batch_size(key: str, batch_size: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Raises UserError, naming `key`, unless every device gets the same whole number of examples a microbatch."""
    ways = batch_ways(mesh) * accumulate
    if batch_size < 1 or batch_size % ways:
        by = f"{batch_ways(mesh)} (mesh.data x mesh.fsdp)" + (
            f" x {accumulate} (train.accumulate)" if accumulate > 1 else ""
        )
        raise UserError(f"{key} is {batch_size}: the mesh cannot divide it; make it a multiple of {by}")


def check_volume_size(size: tuple[int, int, int], mesh: Mesh, multiples: tuple[int, int, int]) -> None:
    """Raises UserError unless (D, H, W) are multiples of what the model's levels ask, and D and H split evenly over the mesh."""
    if len(size) != 3:
        raise UserError(f"data.size is {size}: give three numbers, D, H and W")
    for axis, edge, multiple in zip("DHW", size, multiples, strict=True):
        if edge < multiple or edge % multiple:
            raise UserError(
                f"data.size is {tuple(size)}: {axis} = {edge} cannot be halved as often as the levels ask; "
                f"make it a multiple of {multiple} or use fewer model.channel_multipliers"
            )
    for axis, name, edge in (("D", "depth", size[0]), ("H", "height", size[1])):
        # Two planes of a subband, which are four of the volume, are the least that a shard may hold.
        if mesh.shape[name] > 1 and edge % (4 * mesh.shape[name]):
            raise UserError(
                f"mesh.{name} is {mesh.shape[name]}: {axis} = {edge} of data.size does not split into parts of four "
                f"planes or a multiple of it; use a divisor of {edge // 4}"
            )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, array: jax.ShapeDtypeStruct | np.ndarray | jax.Array) -> NamedSharding:
    """Returns how one array of a batch lies on the mesh: a volume [B, D, H, W, C] over all axes, anything else along B.

    A volume with too few planes for an axis of the mesh, as latents may have, is whole along it, as it is inside networks.
    """
    volume_axes = volume_spec(array.shape, mesh.shape)[1:] if array.ndim == 5 else ()
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp"), *volume_axes))


@functools.cache
def process_rows(mesh: Mesh, batch_size: int, process: int | None = None) -> tuple[int, ...]:
    """Returns the rows of the global batch that a process's devices hold, in order: the only ones it must read.

    They need not be neighbours: on a TPU the mesh follows the wires between the chips and not the hosts. Processes whose
    devices share a row, cut over depth or height, each name it.

    Args:
      process: this one by default.
    """
    process = jax.process_index() if process is None else process
    spans = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))).devices_indices_map((batch_size,))
    own = [span.indices(batch_size) for device, (span,) in spans.items() if device.process_index == process]
    return tuple(sorted({row for indices in own for row in range(*indices)}))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh, batch_size: int) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch, those of `process_rows` in order, into global arrays of `batch_size` rows."""
    place = {row: n for n, row in enumerate(process_rows(mesh, batch_size))}

    def put(rows: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(batch_size)
            return rows[place[start] : place[stop - 1] + 1, *index[1:]]

        return jax.make_array_from_callback((batch_size, *rows.shape[1:]), batch_sharding(mesh, rows), part)

    return {name: put(rows) for name, rows in batch.items()}


def take_rows(batch: jax.Array, mesh: Mesh) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (row, array [...]) so that every row of a batch on the mesh comes out on exactly one process.

    A row whose parts lie on several processes is made whole on the way, one row at a time, so every process must ask for
    all that it gets. Any other row comes from its own process without communication.
    """
    holders: dict[int, set[int]] = {}
    for device, index in batch.sharding.devices_indices_map(batch.shape).items():
        for row in range(*index[0].indices(batch.shape[0])):
            holders.setdefault(row, set()).add(device.process_index)
    cut = batch.sharding.shard_shape(batch.shape)[1:] != batch.shape[1:]
    parts = [(shard.index, np.asarray(shard.data)) for shard in batch.addressable_shards]
    for row in range(batch.shape[0]):
        whole = np.empty(batch.shape[1:], batch.dtype)
        if cut and len(holders[row]) > 1:
            whole = row_everywhere(batch, row, mesh)
        elif jax.process_index() == min(holders[row]):
            for index, part in parts:
                start, stop, _ = index[0].indices(batch.shape[0])
                if start <= row < stop:
                    whole[index[1:]] = part[row - start]
        if jax.process_index() == min(holders[row]):
            yield row, whole


def row_everywhere(batch: jax.Array, row: int, mesh: Mesh) -> np.ndarray:
    """Fetches one row of a batch on the mesh to every process; every process must ask for it."""
    return np.asarray(_whole_row(mesh)(batch, row))


@functools.cache
def _whole_row(mesh: Mesh) -> Callable[[jax.Array, int], jax.Array]:
    def pick(batch: jax.Array, row: int) -> jax.Array:
        # Masked and summed rather than indexed: the compiler would gather all rows to index one.
        chosen = jnp.arange(batch.shape[0]) == row
        return jnp.sum(jnp.where(chosen.reshape(-1, *[1] * (batch.ndim - 1)), batch, 0), axis=0, dtype=batch.dtype)

    return jax.jit(pick, out_shardings=replicated(mesh))
