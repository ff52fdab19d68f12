"""What is learned: each task is a frozen dataclass of hyper-parameters with pure methods (see runtime/train_state.Task)."""

from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.tasks.wavelet_diffusion import WaveletDiffusion

TASKS = {"wavelet_diffusion": WaveletDiffusion}


def make_task(config: ConfigDict) -> WaveletDiffusion:
    """The task that `config.task` names.

    Raises:
      UserError: there is no such task, or a hyper-parameter cannot work.
    """
    if config.task not in TASKS:
        raise UserError(f"task is {config.task!r}: use one of {', '.join(sorted(TASKS))}")
    return TASKS[config.task].from_config(config)
