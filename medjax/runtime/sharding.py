"""How parameters, their moving average and the optimiser's moments lie on the mesh.

Every array is whole on each device but for the `fsdp` axis, which cuts the large ones. The rule looks at the shape
alone, so a parameter, its average and its moments, which share a shape, always lie alike.
"""

from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")

SMALLEST_CUT = 2**14  # elements; gathering a smaller array costs more time than its memory is worth


def parameter_spec(shape: tuple[int, ...], fsdp: int) -> PartitionSpec:
    """Cuts the last longest axis that `fsdp` divides; leaves small or indivisible arrays whole."""
    if fsdp == 1 or np.prod(shape) < SMALLEST_CUT:
        return PartitionSpec()
    divisible = [axis for axis, length in enumerate(shape) if length % fsdp == 0]
    if not divisible:
        return PartitionSpec()
    cut = max(divisible, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == cut else None for axis in range(len(shape))))


def state_shardings(shapes: Tree, mesh: Mesh) -> Tree:
    """A NamedSharding for every array of a tree of `jax.ShapeDtypeStruct` (from `jax.eval_shape`)."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, parameter_spec(leaf.shape, mesh.shape["fsdp"])), shapes)
