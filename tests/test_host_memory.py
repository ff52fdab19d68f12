"""How much memory there is, and that freed memory stays with the process that freed it."""

import os
import subprocess
import sys
import types

import pytest

from medjax import host_memory
from small_runs import ROOT
from xla_flags import xla_flags

# The fewest page faults of a result of 64 MB, which malloc would take from the system and give back each time. Not of the
# last: the one before it may still be in use when it is made, and a third or fourth block then be taken.
PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from medjax.host_memory import keep_freed_memory

def keep():
    if not keep_freed_memory():
        sys.exit(3)

if sys.argv[1] == "before":
    keep()
double = jax.jit(lambda x: 2 * jnp.flip(x))
x = jnp.ones(1 << 24)
if sys.argv[1] == "after":
    keep()
faults = []
for _ in range(16):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    double(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""

OF_LAUNCH = """
import launch
from jax._src import xla_bridge
from medjax import host_memory

host_memory.keep_freed_memory = lambda: print("devices known:", xla_bridge.backends_are_initialized())
launch.main(["launch.py", "--mode=sample", "--workdir=/nowhere"], own_process=OWN)
"""


def printed(program: str, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if run.returncode == 3:
        pytest.skip("this C library is not glibc")
    return run.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    faults = {when: int(printed(PROGRAM, when)) for when in ("before", "after", "never")}
    assert faults["before"] < 100
    # Huge pages may make these fewer than the 16384 small ones.
    assert faults["never"] > faults["before"]


@pytest.mark.parametrize(("own", "expected"), [(True, "devices known: False\n"), (False, "")])
def test_launch_keeps_it_in_a_process_of_its_own_before_the_devices_are_known(own, expected):
    assert printed(OF_LAUNCH.replace("OWN", str(own))) == expected


@pytest.mark.parametrize(
    ("platforms", "modules", "plugins", "expected"),
    [
        ("cpu", {"libtpu"}, ["cuda"], True),
        ("cuda,cpu", set(), [], False),
        (None, set(), [], True),
        (None, {"libtpu"}, [], False),
        (None, {"jax_plugins"}, [], False),
        (None, set(), ["cuda"], False),
    ],
)
def test_accelerators_are_guessed_from_what_is_installed(platforms, modules, plugins, expected, monkeypatch):
    monkeypatch.setattr(host_memory.jax, "config", types.SimpleNamespace(jax_platforms=platforms))
    monkeypatch.setattr(host_memory.importlib.util, "find_spec", lambda name: name if name in modules else None)
    monkeypatch.setattr(host_memory.importlib.metadata, "entry_points", lambda group: plugins)
    assert host_memory.only_cpus() == expected


def group(folder, name: str, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content + "\n")


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        pytest.param("0::/slurm/job_7\n", {"slurm/job_7/memory.max": "4096"}, 4096, id="version 2"),
        pytest.param(
            "0::/slurm/job_7/step\n",
            {"slurm/memory.max": "8192", "slurm/job_7/memory.max": "4096", "slurm/job_7/step/memory.max": "max"},
            4096,
            id="of a group around it",
        ),
        pytest.param("0::/only/the/host/sees\n", {"memory.max": "4096"}, 4096, id="in a container"),
        pytest.param(
            "4:memory:/docker/ab\n3:cpuset:/docker/ab\n0::/\n",
            {"memory/docker/ab/memory.limit_in_bytes": "4096", "cpuset/docker/ab/memory.limit_in_bytes": "1"},
            4096,
            id="version 1",
        ),
        pytest.param(
            "4:memory:/docker/ab\n", {"memory/memory.limit_in_bytes": "4096"}, 4096, id="version 1, container"
        ),
        pytest.param("0::/job\n", {"job/memory.max": "max"}, None, id="no limit"),
        pytest.param(
            "4:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None, id="no limit, version 1"
        ),
        pytest.param("0::/job\n", {}, None, id="no such folder"),
    ],
)
def test_a_limit_of_a_control_group_is_what_memory_there_is(membership, files, expected, tmp_path):
    (tmp_path / "self").write_text(membership)
    for name, content in files.items():
        folder, _, file = name.rpartition("/")
        group(tmp_path / "groups" / folder, file, content)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert host_memory.memory_size(tmp_path / "self", tmp_path / "groups") == (expected or physical)


def test_without_control_groups_it_is_the_computer_s(tmp_path):
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert host_memory.memory_size(tmp_path / "nothing", tmp_path) == physical
