"""What this computer has, and that JAX looks for nothing else."""

import os
import subprocess
import sys

import pytest

from medjax.platforms import accelerators_here
from small_runs import ROOT

LOOK = """
import jax
from medjax import platforms
platforms.accelerators_here = lambda: {there}
platforms.look_for_what_is_there()
installed = platforms.accelerators_installed()
print("unknown" if installed is None else sorted(installed), jax.config.jax_platforms)
"""


def device(pci, name: str, vendor: str, kind: str) -> None:
    (pci / name).mkdir(parents=True)
    (pci / name / "vendor").write_text(vendor + "\n")
    (pci / name / "class").write_text(kind + "\n")


@pytest.mark.parametrize("files, expected", [((), set()), (("nvidiactl",), {"cuda"}), (("dxg",), {"cuda"})])
def test_gpus_are_known_by_their_files(files, expected, tmp_path):
    for name in files:
        (tmp_path / name).touch()
    assert accelerators_here(tmp_path, tmp_path / "no bus") == expected


def test_tpus_are_known_by_their_maker_and_network_cards_of_the_same_maker_are_none(tmp_path):
    device(tmp_path, "card", "0x1ae0", "0x020000")
    device(tmp_path, "other", "0x8086", "0x088000")
    assert accelerators_here(tmp_path / "no files", tmp_path) == set()
    device(tmp_path, "chip", "0x1ae0", "0x120000")
    assert accelerators_here(tmp_path / "no files", tmp_path) == {"tpu"}


CASES = {
    "nothing installed": ((), set(), "", "[] None"),
    "libtpu without a TPU": (("libtpu",), set(), "", "['tpu'] cpu"),
    "libtpu on a TPU": (("libtpu",), {"tpu"}, "", "['tpu'] None"),
    "CUDA's plugin without a GPU": (("jax_plugins/xla_cuda12",), set(), "", "['cuda'] cpu"),
    "both, with a GPU alone": (("jax_plugins/xla_cuda13", "libtpu"), {"cuda"}, "", "['cuda', 'tpu'] cuda,cpu"),
    "a plugin that is not known": (("jax_plugins/xla_other", "libtpu"), set(), "", "unknown None"),
    "the user says what to look for": (("libtpu",), set(), "tpu", "['tpu'] tpu"),
}


@pytest.mark.parametrize("case", CASES)
def test_jax_looks_for_what_is_there(case, tmp_path):
    installed, there, said, expected = CASES[case]
    for name in installed:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("def get_library_path(): return None\ndef initialize(): pass\n")
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    environment |= {"PYTHONPATH": f"{ROOT}:{tmp_path}"} | ({"JAX_PLATFORMS": said} if said else {})
    ended = subprocess.run(
        [sys.executable, "-c", LOOK.format(there=there)], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.strip() == expected
