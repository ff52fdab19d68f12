import numpy as np
import pytest

from medjax.errors import UserError
from medjax.runtime.mesh import (
    batch_ways,
    check_batch_size,
    check_volume_size,
    make_mesh,
    process_rows,
    put_batch,
    row_everywhere,
    take_rows,
)
from two_processes import work_of_two

ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}


def test_data_takes_what_the_others_leave():
    mesh = make_mesh({"data": -1, "fsdp": 2, "depth": 2, "height": 1})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "depth": 2, "height": 1}
    assert batch_ways(mesh) == 4


def test_a_smaller_mesh_takes_the_first_devices():
    mesh = make_mesh(ONE | {"data": 3})
    assert [device.id for device in mesh.devices.flat] == [0, 1, 2]


@pytest.mark.parametrize(
    ("sizes", "key"),
    [({"fsdp": 0}, "mesh.fsdp"), ({"data": -2}, "mesh.data"), ({"depth": 9}, "mesh.depth=9 asks for 9 devices")],
)
def test_a_mesh_that_cannot_be_names_its_key(sizes, key):
    with pytest.raises(UserError, match=key):
        make_mesh(ONE | sizes)


def test_batch_size_must_divide():
    mesh = make_mesh(ONE | {"data": 2, "fsdp": 2})
    check_batch_size("data.batch_size", 8, mesh, accumulate=2)
    with pytest.raises(UserError, match=r"data.batch_size is 12.*multiple of 4 .* x 2 \(train.accumulate\)"):
        check_batch_size("data.batch_size", 12, mesh, accumulate=2)
    with pytest.raises(UserError, match="sample.batch_size is 0"):
        check_batch_size("sample.batch_size", 0, mesh)


def test_volume_size_must_halve_and_split():
    mesh = make_mesh(ONE | {"data": 1, "depth": 4})
    check_volume_size((32, 20, 8), mesh, (4, 4, 4))
    with pytest.raises(UserError, match="H = 22 cannot be halved.*multiple of 4"):
        check_volume_size((32, 22, 8), mesh, (4, 4, 4))
    with pytest.raises(UserError, match="mesh.depth is 4: D = 24"):
        check_volume_size((24, 20, 8), mesh, (4, 4, 4))
    with pytest.raises(UserError, match="three numbers"):
        check_volume_size((24, 20), mesh, (4, 4, 4))


def test_batches_lie_on_the_mesh():
    mesh = make_mesh(ONE | {"data": 2, "depth": 2, "height": 2})
    assert process_rows(mesh, 4) == (0, 1, 2, 3)
    assert process_rows(mesh, 4, process=1) == ()
    image = np.arange(4 * 8 * 4 * 2, dtype=np.float32).reshape(4, 8, 4, 2, 1)
    batch = put_batch({"image": image, "row": np.arange(4)}, mesh, 4)
    np.testing.assert_array_equal(batch["image"], image)
    assert {shard.data.shape for shard in batch["image"].addressable_shards} == {(2, 4, 2, 2, 1)}
    assert {shard.data.shape for shard in batch["row"].addressable_shards} == {(2,)}
    taken = dict(take_rows(batch["image"], mesh))
    assert sorted(taken) == [0, 1, 2, 3]
    for row, volume in taken.items():
        np.testing.assert_array_equal(volume, image[row])
        np.testing.assert_array_equal(row_everywhere(batch["image"], row, mesh), image[row])


def test_a_batch_of_latents_that_depth_does_not_divide_is_whole_along_it():
    mesh = make_mesh(ONE | {"data": 2, "depth": 4})
    latents = np.arange(4 * 6 * 4 * 2 * 3, dtype=np.float32).reshape(4, 6, 4, 2, 3)
    batch = put_batch({"latents": latents}, mesh, 4)["latents"]
    np.testing.assert_array_equal(batch, latents)
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 6, 4, 2, 3)}
    for row, array in take_rows(batch, mesh):
        np.testing.assert_array_equal(array, latents[row])


def test_each_process_reads_its_own_rows_and_every_row_comes_out_once():
    first, second = work_of_two("rows")
    assert [own for own, _ in first] == [[0, 1], [0, 2], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert [own for own, _ in second] == [[2, 3], [1, 3], [2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    for (_, taken), (_, rest) in zip(first, second, strict=True):
        assert sorted(taken + rest) == [0, 1, 2, 3]
    assert first[0][1] == [0, 1] and first[1][1] == [0, 2]
