"""Devices of machines that are not there, several slices and several nodes among them."""

import dataclasses
import itertools

import numpy as np
import pytest
from jax.experimental import mesh_utils

from medjax.errors import UserError
from medjax.runtime import placement
from medjax.runtime.mesh import make_mesh, process_rows

ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device, with what JAX looks at."""

    id: int
    process_index: int
    slice_index: int
    coords: tuple[int, ...]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0


@dataclasses.dataclass(frozen=True)
class GPU:
    id: int
    process_index: int
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


def chips(slices: int, edge: int = 4, apart: bool = False) -> list[Chip]:
    """Slices of edge x edge chips, four to a host; each counts its coordinates from 0 unless they are `apart`."""
    found = []
    for number, y, x in itertools.product(range(slices), range(edge), range(edge)):
        host = number * edge**2 // 4 + (y // 2) * (edge // 2) + x // 2
        found.append(Chip(len(found), host, number, (x, y + apart * number * edge, 0)))
    return found


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize(
    ("sizes", "slices"),
    [
        ({"data": 8, "depth": 4}, 2),
        ({"data": 2, "depth": 4, "height": 4}, 2),
        ({"data": 4, "fsdp": 4, "depth": 2}, 2),
        ({"fsdp": 8, "depth": 4}, 2),  # where data cannot, fsdp crosses
        ({"data": 2, "fsdp": 2, "depth": 16}, 4),
        ({"data": 6, "depth": 8}, 3),
    ],
)
def test_volumes_stay_within_a_slice_and_the_batch_crosses(sizes, slices, apart):
    devices = chips(slices, apart=apart)
    mesh = make_mesh(ONE | sizes, devices)
    assert sorted(device.id for device in mesh.devices.flat) == list(range(len(devices)))
    for volume in mesh.devices.reshape(-1, *mesh.devices.shape[2:]):
        assert len({device.slice_index for device in volume.flat}) == 1
    if mesh.shape["data"] % slices == 0:  # then parameters that fsdp cuts are gathered within a slice
        for replica in mesh.devices:
            assert len({device.slice_index for device in replica.flat}) == 1


def test_it_is_what_jax_itself_makes_of_slices():
    mesh = make_mesh(ONE | {"data": 4, "fsdp": 2, "depth": 4}, chips(2))
    expected = mesh_utils.create_hybrid_device_mesh(
        (2, 2, 4, 1), (2, 1, 1, 1), chips(2), allow_split_physical_axes=True
    )
    np.testing.assert_array_equal(mesh.devices, expected)


def test_neighbours_in_depth_are_neighbours_on_the_wires():
    mesh = make_mesh(ONE | {"data": 8, "depth": 4}, chips(2))
    for row in mesh.devices.reshape(-1, 4):
        for one, other in itertools.pairwise(row):
            assert sum(abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)) in (
                1,
                3,
            )  # 3: round the torus


@pytest.mark.parametrize(("sizes", "found"), [({"depth": 32}, 1), ({"data": 1, "depth": 8, "height": 4}, 1)])
def test_a_volume_cut_between_slices_is_refused(sizes, found):
    with pytest.raises(
        UserError, match=f"mesh.data x mesh.fsdp is {found} on 32 devices of 2 slices: .* multiple of 2"
    ):
        make_mesh(ONE | sizes, chips(2))


def test_part_of_a_machine_is_taken_slice_by_slice():
    mixed = sorted(chips(2), key=lambda chip: chip.id % 16)
    mesh = make_mesh(ONE | {"depth": 16}, mixed)
    assert {device.slice_index for device in mesh.devices.flat} == {0}
    with pytest.raises(UserError, match="20 devices of 2 slices.*as many devices of each"):
        make_mesh(ONE | {"data": 20}, mixed)


def test_each_process_reads_the_rows_that_its_slice_holds():
    devices = chips(2)
    mesh = make_mesh(ONE | {"data": 2, "fsdp": 2, "depth": 8}, devices)
    held = {process: process_rows(mesh, 8, process) for process in range(8)}
    assert set(itertools.chain(*(held[process] for process in range(4)))) == {0, 1, 2, 3}
    assert set(itertools.chain(*(held[process] for process in range(4, 8)))) == {4, 5, 6, 7}


def test_where_the_coordinates_are_no_torus_devices_are_taken_in_their_order(capsys):
    placement._tell.cache_clear()
    alike = [dataclasses.replace(chip, slice_index=0) for chip in chips(2)]
    for _ in range(2):
        mesh = make_mesh(ONE | {"data": 32}, alike)
    assert [device.id for device in mesh.devices.flat] == list(range(32))
    (line,) = capsys.readouterr().err.splitlines()
    assert "no place on the wires for 32 x 1 x 1 x 1 devices" in line


def gpus(nodes: int, of_each: int) -> list[GPU]:
    return [GPU(node * of_each + n, node) for node in range(nodes) for n in range(of_each)]


def test_gpus_of_a_node_share_a_volume():
    mesh = make_mesh(ONE | {"data": 4, "depth": 4}, gpus(4, 4)[::-1])
    for number, volume in enumerate(mesh.devices):
        assert {device.process_index for device in volume.flat} == {number}


def test_a_volume_cut_between_nodes_is_refused():
    with pytest.raises(
        UserError, match="on 8 devices of 2 nodes: .*mesh.depth=8.* slow network; .* set mesh.across=True$"
    ):
        make_mesh(ONE | {"depth": 8}, gpus(2, 4))


@pytest.mark.parametrize("devices", [gpus(2, 4), chips(2, 2)])
def test_a_volume_cut_between_islands_is_told_where_it_is_asked_for(devices, capsys):
    placement._tell.cache_clear()
    mesh = make_mesh(ONE | {"depth": 8, "across": True}, devices)
    assert mesh.shape["depth"] == 8 and {device.id for device in mesh.devices.flat} == set(range(8))
    line = capsys.readouterr().err.splitlines()[0]
    assert "on 8 devices of 2" in line and "slow network" in line


def test_a_process_a_gpu_tells_of_no_nodes():
    mesh = make_mesh(ONE | {"depth": 4}, gpus(4, 1))
    assert [device.id for device in mesh.devices.flat] == [0, 1, 2, 3]
