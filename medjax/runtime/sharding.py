"""Lays parameters, their moving average and the optimiser's moments on the mesh, by a short list of rules.

The rules look at the end of an array's path and at its shape, so a parameter, its average and its moments, which share
both, always lie alike.
"""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medjax.layers.spatial import volume_spec

Tree = TypeVar("Tree")
Rule = Callable[[tuple[int, ...], Mapping[str, int]], PartitionSpec]

SMALLEST_CUT = 2**14  # elements; gathering a smaller array costs more time than its memory is worth


def whole(shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """Replicates an array on every device."""
    return PartitionSpec()


def like_volumes(shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """Cuts [D, H, ...] as the voxels are that it belongs to."""
    return PartitionSpec(*volume_spec((1, *shape), mesh)[1:])


def over_fsdp(shape: tuple[int, ...], mesh: Mapping[str, int]) -> PartitionSpec:
    """Cuts the last longest axis that `fsdp` divides; leaves small or indivisible arrays whole."""
    fsdp = mesh["fsdp"]
    divisible = [axis for axis, length in enumerate(shape) if length % fsdp == 0]
    if fsdp == 1 or np.prod(shape) < SMALLEST_CUT or not divisible:
        return PartitionSpec()
    cut = max(divisible, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*("fsdp" if axis == cut else None for axis in range(len(shape))))


# The first pattern that is found in the path, such as opt_state/0/mu/down_0_block_0/conv_1/kernel, decides.
RULES: tuple[tuple[str, Rule], ...] = (
    (r"(^|/)position$", like_volumes),
    (r"(^|/)(bias|scale)$", whole),
    # Were these cut, the compiler would rather exchange the vectors they work on, a message a block.
    (r"(^|/)time_(embedding/\w+|projection)/kernel$", whole),
    (r"", over_fsdp),
)


def state_shardings(shapes: Tree, mesh: Mesh) -> Tree:
    """Returns a NamedSharding for every array of a tree of `jax.ShapeDtypeStruct` (from `jax.eval_shape`)."""

    def sharding(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        rule = next(rule for pattern, rule in RULES if re.search(pattern, name))
        return NamedSharding(mesh, rule(leaf.shape, mesh.shape))

    return jax.tree_util.tree_map_with_path(sharding, shapes)
