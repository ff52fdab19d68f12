"""All steps of a sampler at once."""

import jax
import numpy as np

from medjax.diffusion.samplers.ancestral import ancestral_steps
from medjax.diffusion.samplers.ddim import ddim_steps
from medjax.diffusion.samplers.loop import Denoise, NoiseAt, sample
from medjax.diffusion.schedules import Schedule


def ancestral(
    denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule, variance: np.ndarray | None = None
) -> jax.Array:
    """Samples x_0 by `ancestral_step`s from x_T [B, ...]."""
    return sample(ancestral_steps(schedule, variance), denoise, x_T, noise_at, schedule.steps)


def ddim(denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule, eta: float = 0.0) -> jax.Array:
    """Samples x_0 by `ddim_step`s from x_T [B, ...]."""
    return sample(ddim_steps(schedule, eta), denoise, x_T, noise_at, schedule.steps)
