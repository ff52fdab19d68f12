from configs import atlas
from medjax.generation.told import told_of
from medjax.runtime.mesh import make_mesh

GRID = {"data": 2, "fsdp": 1, "depth": 1, "height": 1}


def test_a_label_lies_as_a_batch_does():
    sample = atlas.get_config("tiny").sample
    sample.label = 3
    label = told_of(sample, make_mesh(GRID), 4)["class"]
    assert label.tolist() == [3] * 4 and label.dtype == "int32"
    assert {shard.data.shape for shard in label.addressable_shards} == {(2,)}


def test_without_a_label_nothing_is_told():
    assert told_of(atlas.get_config("tiny").sample, make_mesh(GRID), 4) == {}
