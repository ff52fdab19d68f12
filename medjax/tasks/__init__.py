"""Holds what is learned: each task is a frozen dataclass of hyper-parameters with pure methods (medjax/task.py)."""

from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.tasks.autoencoder import Autoencoder
from medjax.tasks.diffusion import Diffusion

# By `config.task`; a diffusion's codec is what the word says (codec_choice.py).
TASKS = {
    "wavelet_diffusion": Diffusion,
    "latent_diffusion": Diffusion,
    "voxel_diffusion": Diffusion,
    "vqgan": Autoencoder,
}


def make_task(config: ConfigDict, vqgan: ConfigDict | None = None) -> Diffusion | Autoencoder:
    """Makes the task that `config.task` names.

    Args:
      config: as configs/common.py describes.
      vqgan: configuration of the VQ-GAN under a latent diffusion.

    Raises:
      UserError: there is no such task, or a hyper-parameter cannot work.
    """
    parts = (config,) if vqgan is None else (config, vqgan)
    return task_class(config).from_config(*parts)


def task_class(config: ConfigDict) -> type[Diffusion | Autoencoder]:
    """Returns the class of the task that `config.task` names, which says what such a task does.

    Raises:
      UserError: there is no such task.
    """
    if config.task not in TASKS:
        raise UserError(f"task is {config.task!r}: use one of {', '.join(sorted(TASKS))}")
    return TASKS[config.task]
