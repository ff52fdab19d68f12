"""Tells which accelerators this computer has, and keeps JAX from looking for those that it has not.

The compilers of TPUs (libtpu) and of GPUs (JAX's CUDA plugin) run anywhere, so an environment may hold them for planning.
JAX takes what is installed for what is there: it then logs at length, and its profiler ends the process.
"""

import importlib.metadata
import importlib.util
import pathlib
import sys
import types

import jax

CUDA = "jax_plugins.xla_cuda"  # how the names of JAX's plugins for CUDA 12, 13, ... begin
GOOGLE = "0x1ae0"  # maker of TPUs, as PCI numbers makers
OTHERS = ("0x01", "0x02")  # its disks and network cards, by their PCI classes, which machines without a TPU have, too
DEVICES = pathlib.Path("/dev")
PCI = pathlib.Path("/sys/bus/pci/devices")
NVIDIA = ("nvidiactl", "nvidia0", "dxg")  # in `DEVICES`; the last is what Windows gives to its Linux


def look_for_what_is_there() -> None:
    """Has JAX look for accelerators that this computer has; call it before JAX looks.

    Nothing is changed where JAX_PLATFORMS says what to look for, where all that is installed is there, or where something is
    installed that is not known here.
    """
    if jax.config.jax_platforms:
        return
    installed = accelerators_installed()
    there = accelerators_here()
    if installed is None or installed <= there:
        return
    jax.config.update("jax_platforms", ",".join([*sorted(installed & there), "cpu"]))
    if "cuda" not in there:
        for name in _plugins():
            sys.modules.setdefault(name, _SilentPlugin(name))  # JAX loads every plugin, whatever it is told to look for


def accelerators_installed() -> set[str] | None:
    """Names the platforms ("cuda", "tpu") that JAX has been given beside the CPU; None if there is one that is not known here."""
    names = _plugins()
    if any(not name.startswith(CUDA) for name in names):
        return None
    return _platforms(cuda=bool(names), tpu=importlib.util.find_spec("libtpu") is not None)


def plugin_of_cuda() -> types.ModuleType | None:
    """Imports JAX's CUDA plugin, whether or not JAX has been kept from it; None where there is none."""
    for name in sorted(_plugins()):
        if name.startswith(CUDA):
            if isinstance(sys.modules.get(name), _SilentPlugin):
                del sys.modules[name]
            return importlib.import_module(name)
    return None


def accelerators_here(devices: pathlib.Path = DEVICES, pci: pathlib.Path = PCI) -> set[str]:
    """Names the platforms whose devices this computer shows.

    Args:
      devices: the folder of device files.
      pci: the folder of what is on the PCI bus.
    """
    made_by_google = [one for one in pci.glob("*") if _first_line(one / "vendor") == GOOGLE]
    return _platforms(
        cuda=any((devices / name).exists() for name in NVIDIA),
        tpu=any(not _first_line(one / "class").startswith(OTHERS) for one in made_by_google),
    )


class _SilentPlugin(types.ModuleType):
    """Stands in for a plugin of JAX that has no device here."""

    def initialize(self) -> None:
        """Does nothing, where a plugin makes itself known to JAX."""


def _plugins() -> set[str]:
    """Names the modules that JAX takes for plugins."""
    names = {point.value.partition(":")[0] for point in importlib.metadata.entry_points(group="jax_plugins")}
    if spec := importlib.util.find_spec("jax_plugins"):
        folders = [pathlib.Path(place) for place in spec.submodule_search_locations or ()]
        names |= {f"jax_plugins.{path.name}" for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return {name for name in names if not name.endswith("__pycache__")}


def _platforms(cuda: bool, tpu: bool) -> set[str]:
    return {name for name, there in (("cuda", cuda), ("tpu", tpu)) if there}


def _first_line(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
