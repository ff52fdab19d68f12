import jax
import numpy as np
from jax.sharding import PartitionSpec

from medjax.runtime.mesh import make_mesh
from medjax.runtime.sharding import over_fsdp, state_shardings

FSDP_4 = {"data": 1, "fsdp": 4, "depth": 1, "height": 1}


def test_the_last_longest_divisible_axis_is_cut():
    assert over_fsdp((3, 3, 3, 64, 64), FSDP_4) == PartitionSpec(None, None, None, None, "fsdp")
    assert over_fsdp((3, 3, 3, 128, 64), FSDP_4) == PartitionSpec(None, None, None, "fsdp", None)


def test_small_and_indivisible_arrays_stay_whole():
    assert over_fsdp((64,), FSDP_4) == PartitionSpec()
    assert over_fsdp((3, 3, 3, 67, 67), FSDP_4) == PartitionSpec()
    assert over_fsdp((3, 3, 3, 64, 64), FSDP_4 | {"fsdp": 1}) == PartitionSpec()


def test_cut_arrays_hold_their_share():
    mesh = make_mesh(FSDP_4)
    tree = {"kernel": np.ones((128, 256), np.float32), "bias": np.ones((256,), np.float32)}
    placed = jax.device_put(tree, state_shardings(tree, mesh))
    assert {shard.data.shape for shard in placed["kernel"].addressable_shards} == {(128, 64)}
    assert {shard.data.shape for shard in placed["bias"].addressable_shards} == {(256,)}


def test_an_array_its_average_and_its_moments_lie_alike():
    mesh = make_mesh({"data": 1, "fsdp": 2, "depth": 2, "height": 2})
    params = {"unet": {"position": np.ones((8, 8, 8, 64)), "conv": {"kernel": np.ones((3, 3, 3, 32, 64))}}}
    shardings = state_shardings({"params": params, "ema": params, "opt_state": ({"mu": params},)}, mesh)
    assert shardings["params"] == shardings["ema"] == shardings["opt_state"][0]["mu"]
    assert shardings["params"]["unet"]["position"].spec == PartitionSpec("depth", "height")
    assert shardings["params"]["unet"]["conv"]["kernel"].spec == PartitionSpec(None, None, None, None, "fsdp")


def test_the_layers_of_the_time_stay_whole():
    large = {"kernel": np.ones((256, 512))}
    tree = {"time_embedding": {"hidden": large}, "down_0_block_0": {"time_projection": large, "other": large}}
    shardings = state_shardings({"mu": tree}, make_mesh(FSDP_4))["mu"]
    assert shardings["time_embedding"]["hidden"]["kernel"].spec == PartitionSpec()
    assert shardings["down_0_block_0"]["time_projection"]["kernel"].spec == PartitionSpec()
    assert shardings["down_0_block_0"]["other"]["kernel"].spec == PartitionSpec(None, "fsdp")


def test_whatever_has_no_rule_of_its_own_is_cut_by_size():
    mesh = make_mesh(FSDP_4)
    long_bias, table = np.ones((2**15,)), np.ones((2**15,))
    shardings = state_shardings({"layer": {"bias": long_bias, "table": table}}, mesh)
    assert shardings["layer"]["bias"].spec == PartitionSpec()
    assert shardings["layer"]["table"].spec == PartitionSpec("fsdp")
