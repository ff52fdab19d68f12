"""Holds what is learned: each task is a frozen dataclass of hyper-parameters with pure methods (medjax/task.py)."""

from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.tasks.diffusion import Diffusion
from medjax.tasks.vqgan import VQGAN

# By `config.task`; a diffusion's codec is what the word says (codec_choice.py).
TASKS = {
    "wavelet_diffusion": Diffusion,
    "latent_diffusion": Diffusion,
    "voxel_diffusion": Diffusion,
    "vqgan": VQGAN,
}


def make_task(config: ConfigDict, vqgan: ConfigDict | None = None) -> Diffusion | VQGAN:
    """Makes the task that `config.task` names.

    Args:
      config: as configs/common.py describes.
      vqgan: configuration of the VQ-GAN under a latent diffusion.

    Raises:
      UserError: there is no such task, or a hyper-parameter cannot work.
    """
    if config.task not in TASKS:
        raise UserError(f"task is {config.task!r}: use one of {', '.join(sorted(TASKS))}")
    parts = (config,) if vqgan is None else (config, vqgan)
    return TASKS[config.task].from_config(*parts)


def can_sample(task: Diffusion | VQGAN) -> bool:
    """Says whether volumes are drawn from it; a VQ-GAN only encodes and decodes."""
    return task.generates
