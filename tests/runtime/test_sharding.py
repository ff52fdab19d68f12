import jax
import numpy as np
from jax.sharding import PartitionSpec

from medjax.runtime.mesh import make_mesh
from medjax.runtime.sharding import parameter_spec, state_shardings


def test_the_last_longest_divisible_axis_is_cut():
    assert parameter_spec((3, 3, 3, 64, 64), 4) == PartitionSpec(None, None, None, None, "fsdp")
    assert parameter_spec((3, 3, 3, 128, 64), 4) == PartitionSpec(None, None, None, "fsdp", None)


def test_small_and_indivisible_arrays_stay_whole():
    assert parameter_spec((64,), 4) == PartitionSpec()
    assert parameter_spec((3, 3, 3, 67, 67), 4) == PartitionSpec()
    assert parameter_spec((3, 3, 3, 64, 64), 1) == PartitionSpec()


def test_cut_arrays_hold_their_share():
    mesh = make_mesh({"data": 1, "fsdp": 4, "depth": 1, "height": 1})
    tree = {"kernel": np.ones((128, 256), np.float32), "bias": np.ones((256,), np.float32)}
    placed = jax.device_put(tree, state_shardings(tree, mesh))
    assert {shard.data.shape for shard in placed["kernel"].addressable_shards} == {(128, 64)}
    assert {shard.data.shape for shard in placed["bias"].addressable_shards} == {(256,)}
