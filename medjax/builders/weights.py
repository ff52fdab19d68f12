"""Brings weights in from PyTorch files and out again: each kind of file is a `Format`, which tasks name."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np

from medjax.builders.assemble import Run
from medjax.builders.steps import volume_shapes
from medjax.errors import UserError
from medjax.interop import medical_checkpoints, medical_vqgan
from medjax.interop.safetensors_load import SUFFIX, save_tensors
from medjax.interop.torch_load import load_state_dict
from medjax.interop.torch_save import save_state_dict
from medjax.interop.wdm import params_from_state_dict, state_dict_from_params
from medjax.runtime.train_state import TrainState
from medjax.task import Arrays

ADVICE = "say which with --part=NAME"  # where a file holds several state dicts


@dataclasses.dataclass(frozen=True)
class Weights:
    """Holds what a file says of a model.

    Attributes:
      params: of the network, or networks.
      ema: their moving average; the parameters again where the file has none.
      tensors: how many there are in the file.
      variables: what changes and is not trained, as a codebook; None where the file has none.
      perceptual: the state dict of a perceptual loss, where the file has one.
    """

    params: Arrays
    ema: Arrays
    tensors: int
    variables: Arrays | None = None
    perceptual: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Holds what is written to a file, as NumPy arrays.

    Attributes:
      step: of the checkpoint.
      params: what samples are drawn with, or the parameters where a file has both.
      ema: their moving average; the same as `params` where a file has one set.
      variables: what changes and is not trained.
    """

    step: int
    params: Arrays
    ema: Arrays
    variables: Arrays


@dataclasses.dataclass(frozen=True)
class Format:
    """Says how one kind of PyTorch file is read and written.

    Attributes:
      read: (path, run, shapes of its state, part) -> Weights; raises ValueError for a file of another model. The part is the
        name of the state dict to read, where a file holds several; None for the one that it holds, or as published.
      write: (path, run, what was trained) -> the number of tensors; raises ValueError for a model that PyTorch has not.
      has_average: whether a file holds both the parameters and their moving average.
    """

    read: Callable[[pathlib.Path, Run, TrainState, str | None], Weights]
    write: Callable[[pathlib.Path, Run, Trained], int]
    has_average: bool = False


def format_of(run: Run) -> Format:
    """The format of a run's weights.

    Raises:
      UserError: there is none.
    """
    if run.task.weights is None:
        raise UserError(f"task is {run.config.task!r}: there is no published code whose weights it could take or give")
    return FORMATS[run.task.weights]


def _save(path: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> int:
    """Writes a state dict in the format that the file's name says; returns how many tensors it has."""
    (save_tensors if path.suffix == SUFFIX else save_state_dict)(path, state_dict)
    return len(state_dict)


def _read_wdm(path: pathlib.Path, run: Run, shapes: TrainState, part: str | None) -> Weights:
    del run
    state_dict = load_state_dict(path, part, ADVICE)
    params = params_from_state_dict(state_dict, shapes.params)
    return Weights(params, params, len(state_dict))


def _write_wdm(path: pathlib.Path, run: Run, trained: Trained) -> int:
    del run
    return _save(path, state_dict_from_params(trained.params))


def _read_vqgan(path: pathlib.Path, run: Run, shapes: TrainState, part: str | None) -> Weights:
    del run
    found = medical_checkpoints.read_vqgan(path, shapes.params, shapes.variables, part, ADVICE)
    return Weights(found.params, found.params, found.tensors, found.variables, found.perceptual)


def _write_vqgan(path: pathlib.Path, run: Run, trained: Trained) -> int:
    del run
    return _save(path, medical_vqgan.to_state_dict(trained.params, trained.variables))


def _read_diffusion(path: pathlib.Path, run: Run, shapes: TrainState, part: str | None) -> Weights:
    """Reads a milestone, whose VQ-GAN, where it holds one, must be the run's.

    Raises:
      UserError: it is another, or the run does not scale latents as the published code does.
    """
    if run.config.latents.scaling != "codebook":
        raise UserError(
            f"latents.scaling is {run.config.latents.scaling!r}: published weights were trained with 'codebook'"
        )
    found = medical_checkpoints.read_diffusion(path, shapes.params, run.task.objective.schedule.betas, part, ADVICE)
    if found.vqgan:
        like = jax.eval_shape(
            run.task.latents.autoencoder.init, jax.random.key(0), volume_shapes(run.task.latents.size, 1)
        )
        params, variables = medical_vqgan.to_params(found.vqgan, *like)
        here = run.pretrained.arrays["vqgan"]
        pairs = (
            (params["generator"], here["generator"]),
            (variables["codebook"]["embeddings"], here["codebook"]["embeddings"]),
        )
        if not all(jax.tree.all(jax.tree.map(np.array_equal, *pair)) for pair in pairs):
            raise UserError(
                f"latents.vqgan={run.config.latents.vqgan} is not the VQ-GAN that the weights were trained on: the file "
                "holds that one too, import it to a workdir of its own with the variant vqgan"
            )
    return Weights(found.params, found.ema, found.tensors)


def _write_diffusion(path: pathlib.Path, run: Run, trained: Trained) -> int:
    if path.suffix == SUFFIX:
        raise ValueError(f"a milestone is a dictionary of state dicts, which {SUFFIX} files have not: name a .pt file")
    whole = run.pretrained.first_stage
    return medical_checkpoints.write_diffusion(
        path,
        trained.step,
        trained.params,
        trained.ema,
        run.task.objective.schedule.betas,
        (whole["params"], whole["variables"]),
    )


FORMATS = {
    "wdm": Format(_read_wdm, _write_wdm),
    "medical_vqgan": Format(_read_vqgan, _write_vqgan),
    "medical_diffusion": Format(_read_diffusion, _write_diffusion, has_average=True),
}
