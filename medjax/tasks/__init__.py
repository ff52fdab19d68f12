"""Holds what is learned: each task is a frozen dataclass of hyper-parameters with pure methods (medjax/task.py)."""

from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.tasks.latent_diffusion import LatentDiffusion
from medjax.tasks.vqgan import VQGAN
from medjax.tasks.wavelet_diffusion import WaveletDiffusion

TASKS = {"wavelet_diffusion": WaveletDiffusion, "vqgan": VQGAN, "latent_diffusion": LatentDiffusion}


def make_task(config: ConfigDict, vqgan: ConfigDict | None = None) -> WaveletDiffusion | VQGAN | LatentDiffusion:
    """The task that `config.task` names.

    Args:
      config: as configs/common.py describes.
      vqgan: of a latent diffusion, the configuration of its VQ-GAN.

    Raises:
      UserError: there is no such task, or a hyper-parameter cannot work.
    """
    if config.task not in TASKS:
        raise UserError(f"task is {config.task!r}: use one of {', '.join(sorted(TASKS))}")
    parts = (config,) if vqgan is None else (config, vqgan)
    return TASKS[config.task].from_config(*parts)


def can_sample(task: object) -> bool:
    """Whether volumes are drawn from it; a VQ-GAN only encodes and decodes."""
    return hasattr(task, "sample")
