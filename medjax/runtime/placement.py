"""Places devices in the mesh: neighbours on the fastest links, slices and nodes side by side along the batch.

The chips of a TPU slice, or the GPUs of a node, are an island: fast among themselves, and between islands there is only the
data centre's network. `data` talks once a step and `fsdp` once a layer; `depth` and `height` exchange halos in every
convolution, so they stay within an island.
"""

import functools
import itertools
import math
import sys
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils

from medjax.errors import UserError

# What JAX raises where the devices' coordinates are not those of one torus, or a mesh does not fit on its wires.
UNPLACED = (AssertionError, NotImplementedError, ValueError)


def islands_of(devices: Sequence[jax.Device]) -> list[list[jax.Device]]:
    """Groups devices by slice, or GPUs of which no slice is known by process; one island where neither tells."""
    slices = [getattr(device, "slice_index", None) for device in devices]
    processes = [device.process_index for device in devices]
    if None not in slices and len(set(slices)) > 1:
        keys = slices
    elif devices[0].platform == "gpu" and len(devices) > len(set(processes)):
        keys = processes
    else:
        return [list(devices)]
    return [[d for d, key in zip(devices, keys, strict=True) if key == island] for island in sorted(set(keys))]


def arrange(
    sizes: Mapping[str, int], devices: Sequence[jax.Device], whole: bool = True, across: bool = False
) -> np.ndarray:
    """Arranges devices as an array of the mesh's shape.

    Args:
      sizes: devices along `data`, `fsdp`, `depth` and `height`, in this order.
      devices: devices, as many as the mesh has.
      whole: they are all of the machine's. Some of a TPU's follow no wires and are taken in their order.
      across: `depth` or `height` may cross from one slice or node into another.

    Raises:
      UserError: `depth` or `height` would cross from one slice or node into another, and may not.
    """
    shape, islands = tuple(sizes.values()), islands_of(devices)
    if len(islands) == 1:
        return _placed(shape, (1,) * len(shape), islands, whole)
    outer = outer_shape(sizes, len(islands))
    if outer is not None and len({len(island) for island in islands}) == 1:
        return _placed(shape, outer, islands, whole)
    axes = " and ".join(f"mesh.{axis}={sizes[axis]}" for axis in ("depth", "height") if sizes[axis] > 1)
    kind = "slices" if devices[0].platform == "tpu" else "nodes"
    text = (
        f"mesh.data x mesh.fsdp is {sizes['data'] * sizes['fsdp']} on {len(devices)} devices of {len(islands)} {kind}: "
        f"the parts of a volume{f' ({axes})' if axes else ''} would lie in different ones and send halos over the slow network"
    )
    if not across:
        raise UserError(
            f"{text}; make it a multiple of {len(islands)} and use as many devices of each, or set mesh.across=True"
        )
    _tell(text)
    return _placed(shape, (1,) * len(shape), [list(itertools.chain(*islands))], whole)


def outer_shape(sizes: Mapping[str, int], islands: int) -> tuple[int, ...] | None:
    """Tells how many islands lie along each axis: as many as divide `data`, the rest along `fsdp`; None if any are left."""
    data = math.gcd(sizes["data"], islands)
    fsdp = islands // data
    return None if sizes["fsdp"] % fsdp else (data, fsdp, 1, 1)


def _placed(shape: tuple[int, ...], outer: tuple[int, ...], islands: list[list[jax.Device]], whole: bool) -> np.ndarray:
    """Lays islands out as `outer`, the devices of each so that neighbours in the mesh are neighbours on its wires."""
    inner = tuple(n // islands_along for n, islands_along in zip(shape, outer, strict=True))
    blocks = [_on_wires(inner, island) if whole else np.asarray(island).reshape(inner) for island in islands]
    # [outer..., inner...] to [outer_0, inner_0, outer_1, inner_1, ...]
    together = np.stack(blocks).reshape(*outer, *inner)
    order = [axis + step for axis in range(len(shape)) for step in (0, len(shape))]
    return together.transpose(order).reshape(shape)


def _on_wires(shape: tuple[int, ...], devices: list[jax.Device]) -> np.ndarray:
    try:
        # An axis of the mesh may be part of one of the torus.
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    except UNPLACED:
        _tell(
            f"JAX finds no place on the wires for {' x '.join(map(str, shape))} devices: they are taken in their order"
        )
        return np.asarray(devices).reshape(shape)


@functools.cache
def _tell(text: str) -> None:
    """Says it on stderr, once."""
    print(text, file=sys.stderr)
