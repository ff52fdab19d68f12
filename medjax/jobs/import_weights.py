"""`--mode=import_weights`: a workdir from weights that PyTorch trained, to sample from or to train on."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from data_pipelines.settings import check, intensity_range
from medjax.builders.assemble import Needs, Run, assemble, one_device
from medjax.builders.pretrained import keep_pretrained
from medjax.builders.steps import state_shapes, volume_shapes
from medjax.builders.weights import Weights, format_of
from medjax.errors import UserError
from medjax.interop.torch_save import save_state_dict
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.train_state import TrainState, state_builder
from medjax.runtime.workdir import open_workdir, sole_use, written_aside

LONGEST_LIST = 600  # characters of a message that quotes names from a file
PERCEPTUAL_FILE = "perceptual.pt"


def run(
    config: ConfigDict, workdir: pathlib.Path, checkpoint: str | None = None, part: str | None = None
) -> dict[str, Any]:
    """Writes the weights in a PyTorch file as the checkpoint of step 0 of a new run.

    The file says nothing of how many updates made them, or of the optimiser's moments: training goes on from step 0, with a
    fresh optimiser. Nor of the data: samples take `data.affine`, and training may go on with any scans.

    Args:
      config: of the model that the weights are of; `data.root` is not needed.
      workdir: must not hold a run.
      checkpoint: the .pt or .safetensors file.
      part: which of its state dicts, such as "ema", where it holds several.

    Returns:
      `parameters` and `step`, how many `tensors` the file has, and where the weights of a perceptual loss that it holds were
      put, `perceptual_weights`.

    Raises:
      UserError: the file cannot be read or is of another model, or the workdir is in use.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=import_weights runs in one process: start one alone")
    if not checkpoint:
        raise UserError("--checkpoint is missing: name the .pt file, as --checkpoint=brats_unet_128_1200k.pt")
    path = pathlib.Path(checkpoint).expanduser()
    check(config.data)
    affine = stated_affine(config.data.affine)
    run = assemble(config, None, Needs(), mesh=one_device())
    shapes = state_shapes(run.task, run.optimizer, volume_shapes(tuple(config.data.size), 1))
    try:
        weights = format_of(run).read(path, run, shapes, part)
    except UserError:
        raise
    except ValueError as error:
        # Names come from the file: whatever is in them, the message stays one line.
        text = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UserError(f"{path}: {text[:LONGEST_LIST]}") from error

    perceptual_file = workdir / PERCEPTUAL_FILE
    with sole_use(workdir):
        if (
            any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))
            or (workdir / "metrics.jsonl").exists()
        ):
            raise UserError(f"{workdir} holds a run already: choose another --workdir")
        data = {"identity": None, "axes": config.data.axes, "affine": affine, "frozen": run.pretrained.identity}
        open_workdir(workdir, config.to_dict(), data | {"intensity_range": list(intensity_range(config.data))})
        if weights.perceptual:
            with written_aside(perceptual_file) as aside:
                save_state_dict(aside, {n: np.ascontiguousarray(a, np.float32) for n, a in weights.perceptual.items()})
        keep_pretrained(run.pretrained, run.config, workdir)
        with Checkpoints(workdir, config.train.keep) as checkpoints:
            checkpoints.save(starting_state(run, weights), val_loss=None)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights.params)),
        "step": 0,
        "tensors": weights.tensors,
        "workdir": str(workdir),
        "perceptual_weights": str(perceptual_file) if weights.perceptual else None,
    }


def stated_affine(rows: Sequence[Sequence[float]] | None) -> list[list[float]]:
    """`data.affine` as a matrix from voxels to millimetres.

    Raises:
      UserError: it is not given, or is none.
    """
    example = "--config.data.affine='((-1,0,0,90),(0,1,0,-126),(0,0,1,-72),(0,0,0,1))'"
    if rows is None:
        raise UserError(f"data.affine is not set: say where samples shall lie, voxels to millimetres, as {example}")
    try:
        affine = np.asarray(rows, np.float64)
    except (TypeError, ValueError):
        affine = np.zeros(0)
    if affine.shape != (4, 4) or tuple(affine[3]) != (0, 0, 0, 1) or not math.isfinite(np.linalg.det(affine)):
        raise UserError(f"data.affine is {rows}: give four rows of four numbers, as {example}")
    if np.linalg.det(affine) == 0:
        raise UserError(f"data.affine is {rows}: voxels have no volume; give four rows of four numbers, as {example}")
    return affine.tolist()


def starting_state(run: Run, weights: Weights) -> TrainState:
    """The state at step 0 of a run that begins with these weights and a fresh optimiser."""

    def without_parameters() -> TrainState:
        blank = {"image": jnp.zeros((1, *run.config.data.size, 1), jnp.float32)}
        return state_builder(run.task, run.optimizer)(jax.random.key(0), blank).replace(params={}, ema={})

    # Compiled, what the parameters alone need is never computed.
    state = jax.jit(without_parameters)()
    variables = state.variables if weights.variables is None else weights.variables
    params, ema, variables = jax.tree.map(jnp.asarray, (weights.params, weights.ema, variables))
    return state.replace(params=params, ema=ema, variables=variables)
