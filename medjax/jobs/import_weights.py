"""`--mode=import_weights`: a workdir from weights that PyTorch trained, to sample from or to train on."""

import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from data_pipelines.datasets import check, intensity_range
from medjax.errors import UserError
from medjax.interop.torch_load import load_state_dict
from medjax.interop.wdm import params_from_state_dict
from medjax.jobs.steps import batch_shapes, optimizer_of, state_shapes
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.train_state import Arrays, Task, TrainState, state_builder
from medjax.runtime.workdir import open_workdir, sole_use
from medjax.tasks import make_task

LONGEST_LIST = 600  # characters of a message that quotes names from a file


def run(config: ConfigDict, workdir: pathlib.Path, checkpoint: str | None = None) -> dict[str, Any]:
    """Writes the weights in a PyTorch file as the checkpoint of step 0 of a new run.

    The file says nothing of how many updates made them, or of the optimiser's moments: training goes on from step 0, with a
    fresh optimiser. Nor of the data: samples take `data.affine`, and training may go on with any scans.

    Args:
      config: of the model that the weights are of; `data.root` is not needed.
      workdir: must not hold a run.
      checkpoint: the .pt file.

    Returns:
      `parameters` and `step`, and how many `tensors` the file has.

    Raises:
      UserError: the file cannot be read or is of another model, or the workdir is in use.
    """
    if jax.process_count() > 1:
        raise UserError("--mode=import_weights runs in one process: start one alone")
    if not checkpoint:
        raise UserError("--checkpoint is missing: name the .pt file, as --checkpoint=brats_unet_128_1200k.pt")
    path = pathlib.Path(checkpoint).expanduser()
    task, (_, optimizer) = make_task(config), optimizer_of(config)
    check(config.data)
    affine = stated_affine(config.data.affine)
    shapes = state_shapes(task, optimizer, batch_shapes(tuple(config.data.size), 1))
    state_dict = load_state_dict(path)
    try:
        params = params_from_state_dict(state_dict, shapes.params)
    except ValueError as error:
        # Names come from the file: whatever is in them, the message stays one line.
        text = "".join(c if c.isprintable() else "?" for c in str(error))
        raise UserError(f"{path}: {text[:LONGEST_LIST]}") from error

    with sole_use(workdir):
        if any((workdir / "checkpoints").glob("*")) or (workdir / "metrics.jsonl").exists():
            raise UserError(f"{workdir} holds a run already: choose another --workdir")
        data = {"identity": None, "axes": config.data.axes, "affine": affine}
        open_workdir(workdir, config.to_dict(), data | {"intensity_range": list(intensity_range(config.data))})
        checkpoints = Checkpoints(workdir, config.train.keep)
        checkpoints.save(starting_state(task, optimizer, params, tuple(config.data.size)), val_loss=None)
        checkpoints.close()
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "step": 0,
        "tensors": len(state_dict),
        "workdir": str(workdir),
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


def starting_state(
    task: Task, optimizer: optax.GradientTransformation, params: Arrays, size: tuple[int, int, int]
) -> TrainState:
    """The state at step 0 of a run that begins with `params` and a fresh optimiser."""

    def without_parameters() -> TrainState:
        blank = {"image": jnp.zeros((1, *size, 1), jnp.float32)}
        return state_builder(task, optimizer)(jax.random.key(0), blank).replace(params={}, ema={})

    # Compiled, what the parameters alone need is never computed.
    state = jax.jit(without_parameters)()
    return state.replace(params=jax.tree.map(jnp.asarray, params), ema=jax.tree.map(jnp.asarray, params))
