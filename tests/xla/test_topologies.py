import importlib.util
import re
import sys

import jax
import pytest

from medjax.errors import UserError
from medjax.runtime.mesh import AXES, make_mesh
from medjax.xla import topologies
from medjax.xla.topologies import open_topology
from medjax.xla.tpus import CHIPS, GiB


@pytest.fixture(autouse=True, scope="module")
def jax_has_started():
    assert len(jax.devices()) == 8  # with the tests' devices, before a topology asks for a number of its own


def test_virtual_devices_of_this_computer():
    machine = open_topology("cpu:4")
    assert (machine.platform, list(machine.devices), machine.chip) == ("cpu", jax.devices()[:4], None)
    assert machine.memory * 4 <= topologies.os.sysconf("SC_PHYS_PAGES") * topologies.os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("name", ["v5e", "v9:2x2", "cpu", "cpu:0", "gpu:8", "v5e:4x", "v5p:2x2x2x2", "v5e:4x4 "])
def test_names_that_are_no_machine(name):
    with pytest.raises(UserError, match=f"--topology={name}: use v4, v5e"):
        open_topology(name)


def test_more_devices_than_jax_has_started_with():
    assert len(jax.devices()) == 8
    with pytest.raises(UserError, match="--topology=cpu:9: JAX has started with 8 devices already"):
        open_topology("cpu:9")


@pytest.mark.parametrize(
    ("name", "packages"),
    [("v5e:2x2", "libtpu"), ("2*v5e:2x2", "libtpu"), ("h100:8", "--no-deps jax-cuda12-plugin jax-cuda12-pjrt")],
)
def test_without_a_compiler_it_says_what_to_install(name, packages, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setattr(sys, "path", [place for place in sys.path if not place.endswith(("/tpu", "/gpu"))])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    kind = "gpu" if name.startswith("h100") else "tpu"
    with pytest.raises(
        UserError, match=f"--topology={re.escape(name)} needs .*: pip install --target=.*/{kind} {packages}$"
    ):
        open_topology(name)


def test_a_folder_for_a_compiler_that_does_not_exist(tmp_path):
    with pytest.raises(UserError, match="--compiler=.*/nothing: there is no such folder for --topology=h100:8"):
        open_topology("h100:8", tmp_path / "nothing")


def test_clocks_are_those_that_are_sold():
    clocks = {name: round(chip.clock / 1e9, 2) for name, chip in CHIPS.items()}
    assert clocks == {"v4": 1.05, "v5e": 1.5, "v5p": 1.75, "v6e": 1.75}


# With libtpu installed, what it says as well.
SLICES = {"v4:2x2x1": (4, 30.75), "v5e:4x4": (16, 15.75), "v5p:2x2x2": (8, 95.73), "v6e:2x2": (4, 31.24)}
SLICES = SLICES if importlib.util.find_spec("libtpu") else {}


@pytest.mark.parametrize("name", SLICES)
def test_a_device_is_a_chip(name):
    count, memory = SLICES[name]
    machine = open_topology(name)
    assert (machine.platform, len(machine.devices)) == ("tpu", count)
    assert machine.memory == int(memory * GiB)


@pytest.mark.parametrize("name", ["v5p:4x4x4"] if SLICES else [])
@pytest.mark.parametrize("sizes", [(8, 8, 1, 1), (-1, 1, 8, 2), (2, 1, 4, 1)])
def test_a_mesh_need_not_follow_the_axes_of_the_torus(name, sizes):
    devices = open_topology(name).devices
    mesh = make_mesh(dict(zip(AXES, sizes, strict=True)), devices)
    assert set(mesh.devices.flat) <= set(devices)
    assert mesh.devices.shape == (4 if sizes[0] == -1 else sizes[0], *sizes[1:])


@pytest.mark.parametrize("name", ["v5e:3x5"] if SLICES else [])
def test_a_shape_that_libtpu_refuses_is_named(name):
    with pytest.raises(
        UserError, match="--topology=v5e:3x5: libtpu knows no such machine .*not divisible.*another shape"
    ):
        open_topology(name)
