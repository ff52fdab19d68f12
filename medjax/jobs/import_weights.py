"""`--mode=import_weights`: a workdir from weights that PyTorch trained, to sample from or to train on."""

import dataclasses
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
from medjax.builders.pretrained import Frozen, frozen_of, keep_vqgan, task_of, with_range
from medjax.builders.steps import optimizer_of, state_shapes, volume_shapes
from medjax.errors import UserError
from medjax.interop import medical_checkpoints, medical_vqgan
from medjax.interop.torch_load import load_state_dict
from medjax.interop.torch_save import save_state_dict
from medjax.interop.wdm import params_from_state_dict
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import AXES, make_mesh
from medjax.runtime.train_state import TrainState, state_builder
from medjax.runtime.workdir import open_workdir, sole_use, written_aside
from medjax.task import Arrays, Task

LONGEST_LIST = 600  # characters of a message that quotes names from a file
PERCEPTUAL_FILE = "perceptual.pt"


@dataclasses.dataclass(frozen=True)
class Weights:
    """Holds what a file says of a model.

    Attributes:
      params: of the network, or networks.
      ema: their moving average; the parameters again where the file has none.
      tensors: how many there are in the file.
      variables: what changes and is not trained, as a codebook; None where the file has none.
      perceptual: the state dict of a perceptual loss, where the file has one.
      vqgan: that of the VQ-GAN that the model was trained on, where the file has one.
    """

    params: Arrays
    ema: Arrays
    tensors: int
    variables: Arrays | None = None
    perceptual: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    vqgan: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def run(config: ConfigDict, workdir: pathlib.Path, checkpoint: str | None = None) -> dict[str, Any]:
    """Writes the weights in a PyTorch file as the checkpoint of step 0 of a new run.

    The file says nothing of how many updates made them, or of the optimiser's moments: training goes on from step 0, with a
    fresh optimiser. Nor of the data: samples take `data.affine`, and training may go on with any scans.

    Args:
      config: of the model that the weights are of; `data.root` is not needed.
      workdir: must not hold a run.
      checkpoint: the .pt file.

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
    task = task_of(config)
    _, optimizer = optimizer_of(config, task)
    check(config.data)
    affine = stated_affine(config.data.affine)
    shapes = state_shapes(task, optimizer, volume_shapes(tuple(config.data.size), 1))
    try:
        weights = weights_in(path, config, task, shapes)
        frozen = frozen_under(config, task, weights)
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
        data = {"identity": None, "axes": config.data.axes, "affine": affine, "frozen": frozen.identity}
        open_workdir(workdir, config.to_dict(), data | {"intensity_range": list(intensity_range(config.data))})
        if weights.perceptual:
            with written_aside(perceptual_file) as aside:
                save_state_dict(aside, {n: np.ascontiguousarray(a, np.float32) for n, a in weights.perceptual.items()})
        keep_vqgan(frozen, config, workdir)
        with Checkpoints(workdir, config.train.keep) as checkpoints:
            checkpoints.save(starting_state(task, optimizer, weights, tuple(config.data.size)), val_loss=None)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights.params)),
        "step": 0,
        "tensors": weights.tensors,
        "workdir": str(workdir),
        "perceptual_weights": str(perceptual_file) if weights.perceptual else None,
    }


def weights_in(path: pathlib.Path, config: ConfigDict, task: Task, shapes: TrainState) -> Weights:
    """Reads what a file holds of the configuration's model.

    Raises:
      UserError: it cannot be read.
      ValueError: it is of another model.
    """
    match config.task:
        case "vqgan":
            found = medical_checkpoints.read_vqgan(path, shapes.params, shapes.variables)
            return Weights(found.params, found.params, found.tensors, found.variables, found.perceptual)
        case "latent_diffusion":
            found = medical_checkpoints.read_diffusion(path, shapes.params, task.objective.schedule.betas)
            return Weights(found.params, found.ema, found.tensors, vqgan=found.vqgan)
    state_dict = load_state_dict(path)
    params = params_from_state_dict(state_dict, shapes.params)
    return Weights(params, params, len(state_dict))


def frozen_under(config: ConfigDict, task: Task, weights: Weights) -> Frozen:
    """The VQ-GAN of `latents.vqgan`, if the model is a diffusion on one.

    Raises:
      UserError: it is not the one that the weights were trained on.
    """
    if config.task != "latent_diffusion":
        return Frozen({}, {})
    if config.latents.scaling != "codebook":
        raise UserError(
            f"latents.scaling is {config.latents.scaling!r}: published weights were trained with 'codebook'"
        )
    mesh = make_mesh(dict.fromkeys(AXES, 1))
    frozen = with_range(frozen_of(config, task, mesh), config, task, mesh)
    if weights.vqgan:
        like = jax.eval_shape(task.latents.autoencoder.init, jax.random.key(0), volume_shapes(task.latents.size, 1))
        params, variables = medical_vqgan.to_params(weights.vqgan, *like)
        here = frozen.arrays["vqgan"]
        pairs = (
            (params["generator"], here["generator"]),
            (variables["codebook"]["embeddings"], here["codebook"]["embeddings"]),
        )
        if not all(jax.tree.all(jax.tree.map(np.array_equal, *pair)) for pair in pairs):
            raise UserError(
                f"latents.vqgan={config.latents.vqgan} is not the VQ-GAN that the weights were trained on: the file holds "
                "that one too, import it to a workdir of its own with the variant vqgan"
            )
    return frozen


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
    task: Task, optimizer: optax.GradientTransformation, weights: Weights, size: tuple[int, int, int]
) -> TrainState:
    """The state at step 0 of a run that begins with these weights and a fresh optimiser."""

    def without_parameters() -> TrainState:
        blank = {"image": jnp.zeros((1, *size, 1), jnp.float32)}
        return state_builder(task, optimizer)(jax.random.key(0), blank).replace(params={}, ema={})

    # Compiled, what the parameters alone need is never computed.
    state = jax.jit(without_parameters)()
    variables = state.variables if weights.variables is None else weights.variables
    params, ema, variables = jax.tree.map(jnp.asarray, (weights.params, weights.ema, variables))
    return state.replace(params=params, ema=ema, variables=variables)
