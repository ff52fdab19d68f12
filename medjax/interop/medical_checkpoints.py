"""Reads and writes the files of Medical Diffusion's trainings (FirasGit/medicaldiffusion): the VQ-GAN's .ckpt, milestones.

Lightning writes {"state_dict": ...} and much else; a milestone is {"step", "model", "ema", "scaler"}, whose "model" and "ema"
hold, beside the U-Net, the schedule's tables and the whole VQ-GAN. Of all this only the state dicts are looked at.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.interop import medical_ddpm, medical_vqgan
from medjax.interop.matching import require_none
from medjax.interop.torch_load import ALONE, load_state_dicts
from medjax.interop.torch_save import save_checkpoint

StateDict = Mapping[str, np.ndarray]
Tree = Mapping[str, Any]

VQGAN = "vqgan."  # before the names of the VQ-GAN in a milestone
PERCEPTUAL = medical_vqgan.FOREIGN
SAME_TABLES = 1e-5  # relative difference of float32 tables that are computed in another order


@dataclasses.dataclass(frozen=True)
class TrainedVQGAN:
    """Holds what a checkpoint says of the VQ-GAN.

    Attributes:
      params, variables: parameters and variables as the task has them.
      perceptual: VGG16's and LPIPS' state dict, by names that `interop.perceptual` knows; empty if it is not there.
      tensors: number of tensors in all.
    """

    params: Tree
    variables: Tree
    perceptual: StateDict
    tensors: int


@dataclasses.dataclass(frozen=True)
class TrainedDiffusion:
    """Holds what a milestone says of the U-Net.

    Attributes:
      params: parameters as they were trained.
      ema: their moving average.
      vqgan: the state dict of the VQ-GAN it was trained on; empty if it is not there.
      tensors: number of tensors in all.
    """

    params: Tree
    ema: Tree
    vqgan: StateDict
    tensors: int


def read_vqgan(
    path: pathlib.Path, params: Tree, variables: Tree, part: str | None = None, advice: str = ALONE
) -> TrainedVQGAN:
    """Reads the VQ-GAN of a .ckpt, of a milestone of the diffusion on it, or of a state dict alone.

    Args:
      path: the file.
      params, variables: the task's, for their names and shapes.
      part, advice: arguments of `load_state_dicts`.

    Raises:
      UserError: it is no such file.
      ValueError: it is of another model.
    """
    # Not a milestone's "ema": the average of numbers that never changed differs from them by rounding.
    found = load_state_dicts(path, ("state_dict", "model", ""), part, advice)
    state_dict = next(iter(found.values()))
    state_dict = vqgan_of(state_dict) or state_dict
    params, variables = medical_vqgan.to_params(state_dict, params, variables)
    perceptual = {name.removeprefix(PERCEPTUAL): a for name, a in state_dict.items() if name.startswith(PERCEPTUAL)}
    return TrainedVQGAN(params, variables, perceptual, len(state_dict))


def read_diffusion(
    path: pathlib.Path, params: Tree, betas: np.ndarray, part: str | None = None, advice: str = ALONE
) -> TrainedDiffusion:
    """Reads the U-Net of a milestone, or of the state dict of one; what has no average is its own.

    Args:
      path: the file.
      params: the network's, for their names and shapes.
      betas: [T] float64, of the schedule that the milestone's must be.
      part, advice: arguments of `load_state_dicts`.

    Raises:
      UserError: it is no such file.
      ValueError: it is of another model.
    """
    found = load_state_dicts(path, ("model", "ema", ""), part, advice)
    first = next(iter(found.values()))
    for state_dict in found.values():
        _check_tables(state_dict, betas)
    trained, ema = (
        medical_ddpm.to_params(medical_ddpm.network_of_milestone(found.get(name, first)), params)
        for name in ("model", "ema")
    )
    return TrainedDiffusion(trained, ema, vqgan_of(first), sum(map(len, found.values())))


def vqgan_of(state_dict: StateDict) -> dict[str, np.ndarray]:
    """Picks the VQ-GAN's part of a milestone's "model", by its own names."""
    return {name.removeprefix(VQGAN): array for name, array in state_dict.items() if name.startswith(VQGAN)}


def write_diffusion(
    path: pathlib.Path, step: int, params: Tree, ema: Tree, betas: np.ndarray, vqgan: tuple[Tree, Tree]
) -> int:
    """Writes a milestone, VGG16 left out.

    Args:
      path: written over if it exists.
      step: step of the training.
      params, ema: the network's, and their moving average.
      betas: [T] float64, of the schedule it was trained with.
      vqgan: parameters and variables of the VQ-GAN it was trained on.

    Returns:
      How many tensors it has.

    Raises:
      ValueError: a network has parts of which the published one has no like.
    """
    first_stage = {f"{VQGAN}{name}": array for name, array in medical_vqgan.to_state_dict(*vqgan).items()}
    common = {name: np.ascontiguousarray(table, np.float32) for name, table in tables(betas).items()}

    def state_dict(tree: Tree) -> dict[str, np.ndarray]:
        network = medical_ddpm.to_state_dict(tree)
        return common | {f"{medical_ddpm.PREFIX}{name}": array for name, array in network.items()} | first_stage

    content = {"step": step, "model": state_dict(params), "ema": state_dict(ema), "scaler": {}}
    save_checkpoint(path, content)
    return len(content["model"]) + len(content["ema"])


def tables(betas: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a schedule's tables [T], float64, by the names they have in a milestone, in that order."""
    alphas_cumprod = np.cumprod(1 - betas)
    before = np.append(1.0, alphas_cumprod[:-1])
    posterior_variance = betas * (1 - before) / (1 - alphas_cumprod)
    return {
        "betas": betas,
        "alphas_cumprod": alphas_cumprod,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": np.sqrt(alphas_cumprod),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alphas_cumprod),
        "log_one_minus_alphas_cumprod": np.log(1 - alphas_cumprod),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alphas_cumprod),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alphas_cumprod - 1),
        "posterior_variance": posterior_variance,
        "posterior_log_variance_clipped": np.log(np.maximum(posterior_variance, 1e-20)),
        "posterior_mean_coef1": betas * np.sqrt(before) / (1 - alphas_cumprod),
        "posterior_mean_coef2": (1 - before) * np.sqrt(1 - betas) / (1 - alphas_cumprod),
    }


def _check_tables(state_dict: StateDict, betas: np.ndarray) -> None:
    """Raises ValueError for names that belong to nothing, and for a schedule other than that of `betas`."""
    names = tables(betas)
    owned = (medical_ddpm.PREFIX, VQGAN)
    require_none({"has too many": [n for n in state_dict if not n.startswith(owned) and n not in names]})
    there = state_dict.get("betas", betas)
    if np.shape(there) != betas.shape:
        raise ValueError(f"its schedule has {np.size(there)} steps, diffusion.steps is {len(betas)}: set that")
    if not np.allclose(there, betas, rtol=SAME_TABLES, atol=0):
        raise ValueError("its schedule is not that of diffusion.schedule: 'cosine_9999' is the published code's")
