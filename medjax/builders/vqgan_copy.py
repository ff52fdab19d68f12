"""A latent diffusion keeps its own copy of the VQ-GAN it learns on, WORKDIR/vqgan, whatever becomes of the VQ-GAN's run.

The folder holds the VQ-GAN's `config.json`, `weights.npz` (its parameters and variables, float32, by their paths) and
`identity.json`: the run it came from, the step, and the fingerprint of what encodes and decodes.
"""

import pathlib
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from medjax.errors import UserError
from medjax.runtime.workdir import read_json, write_json
from medjax.task import Arrays

FOLDER = "vqgan"
WEIGHTS, IDENTITY = "weights.npz", "identity.json"


def is_copy(folder: pathlib.Path) -> bool:
    """Whether the folder is a copy of a VQ-GAN, and not the workdir of one."""
    return (folder / WEIGHTS).exists()


def write_copy(folder: pathlib.Path, config: Mapping[str, Any], identity: Mapping[str, Any], model: Arrays) -> None:
    """Makes the folder, whole or not at all; where something else lies under its name, it is left and said so.

    Args:
      folder: a run's `FOLDER`.
      config: of the VQ-GAN.
      identity: {"from", "step", "fingerprint"}, as the module says.
      model: {"params", "variables"} as NumPy arrays.
    """
    if folder.exists():
        told = "keep the VQ-GAN's run, this one needs it"
        print(f"{folder} is there and no copy of a VQ-GAN: none is written; {told}", file=sys.stderr)
        return
    aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write_json(aside / "config.json", config)
        write_json(aside / IDENTITY, identity)
        np.savez(aside / WEIGHTS, **_by_path(model))
        aside.chmod(folder.parent.stat().st_mode & 0o777)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def read_identity(folder: pathlib.Path) -> dict[str, Any]:
    """Reads what identity.json says."""
    identity = read_json(folder / IDENTITY)
    if not {"from", "step", "fingerprint"} <= identity.keys():
        raise UserError(f"{folder / IDENTITY} is not whole: {advice(folder)}")
    return identity


def read_copy(folder: pathlib.Path, shapes: Arrays) -> Arrays:
    """{"params", "variables"} as NumPy arrays.

    Args:
      folder: where the copy lies.
      shapes: of the same, as `jax.ShapeDtypeStruct`s.

    Raises:
      UserError: a file is damaged, or of another model.
    """
    path = folder / WEIGHTS
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:120]}): {advice(folder)}") from error
    expected = _by_path(shapes)
    if {n: (a.shape, a.dtype) for n, a in arrays.items()} != {n: (a.shape, a.dtype) for n, a in expected.items()}:
        raise UserError(f"{path} is not of the VQ-GAN that config.json beside it describes: {advice(folder)}")
    return jax.tree.unflatten(jax.tree.structure(shapes), [arrays[name] for name in expected])


def advice(folder: pathlib.Path) -> str:
    """Says what to do where a copy cannot be used."""
    return f"move {folder} away and name the VQ-GAN's run by latents.vqgan to have it copied again"


def _by_path(tree: Arrays) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in flat}
