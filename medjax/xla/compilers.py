"""Finds the compilers of machines that are not there: libtpu for TPUs, JAX's CUDA plugin for GPUs.

Each lies in a folder of its own in the environment (`make .venv/tpu`, `make .venv/gpu`), where no other job sees it. One that is
installed in the environment itself does as well.
"""

import importlib
import importlib.util
import pathlib
import sys
import types

from medjax.console import NO_DRIVER, without_lines
from medjax.errors import UserError
from medjax.platforms import plugin_of_cuda


def find_libtpu(topology: str, folder: pathlib.Path | None) -> None:
    """Makes libtpu importable.

    Args:
      topology: name of the machine that is asked for, to name it in errors.
      folder: folder that holds the compiler; None: the environment itself, or `tpu` in it.

    Raises:
      UserError: it is not there.
    """
    look_into(topology, folder, "tpu")
    if importlib.util.find_spec("libtpu") is None:
        raise _missing(topology, folder, "TPU", "libtpu")


def find_cuda(topology: str, folder: pathlib.Path | None) -> types.ModuleType:
    """Returns JAX's CUDA plugin; its `initialize` makes it known to JAX.

    Raises:
      UserError: it is not there, or is of another version than JAX and cannot be loaded.
    """
    look_into(topology, folder, "gpu")
    with without_lines(NO_DRIVER):
        plugin = plugin_of_cuda()
    if plugin is None:
        raise _missing(topology, folder, "GPU", "--no-deps jax-cuda12-plugin jax-cuda12-pjrt")
    return plugin


def look_into(topology: str, folder: pathlib.Path | None, kind: str) -> None:
    """Has Python look for modules in a compiler's folder, after all others.

    Raises:
      UserError: `folder` does not exist.
    """
    if folder is not None and not folder.is_dir():
        raise UserError(f"--compiler={folder}: there is no such folder for --topology={topology}")
    place = str(pathlib.Path(sys.prefix) / kind if folder is None else folder)
    if place not in sys.path:
        sys.path.append(place)
        importlib.invalidate_caches()


def _missing(topology: str, folder: pathlib.Path | None, kind: str, packages: str) -> UserError:
    target = pathlib.Path(sys.prefix) / kind.lower() if folder is None else folder
    return UserError(
        f"--topology={topology} needs the {kind}'s compiler, which is not installed: pip install --target={target} {packages}"
    )
