"""A train state of arrays long enough to be cut over `fsdp`, known without computing."""

import jax
import numpy as np
from jax.sharding import Mesh

from medjax.runtime.sharding import state_shardings
from medjax.runtime.train_state import TrainState


def wide_arrays(step: int) -> TrainState:
    """The state after `step` updates, on the host."""
    kernel = np.random.default_rng(step).normal(size=(8, 4096)).astype(np.float32)
    params = {"kernel": kernel, "bias": kernel[0, :5]}
    moments = {"mu": jax.tree.map(lambda leaf: 2 * leaf, params)}
    return TrainState(np.asarray(step, np.int32), params, {"seen": np.asarray(3 * step)}, moments, params)


def wide_shapes() -> TrainState:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), wide_arrays(0))


def wide_state(step: int, mesh: Mesh) -> TrainState:
    """The state on the mesh; each process makes the parts of its own devices."""
    return jax.tree.map(
        lambda leaf, sharding: jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index]),
        wide_arrays(step),
        state_shardings(wide_shapes(), mesh),
    )


def check(state: TrainState, step: int) -> None:
    """Raises AssertionError unless every part that is on this process's devices is that of `wide_arrays(step)`."""
    for array, whole in zip(jax.tree.leaves(state), jax.tree.leaves(wide_arrays(step)), strict=True):
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(shard.data, whole[shard.index])
