"""Samples by DDIM: steps keep the noise they estimate, with as much new noise as wanted (arXiv 2010.02502)."""

import jax
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.samplers.loop import Denoise, NoiseAt, State, Step, for_batch, training_time
from medjax.diffusion.schedules import Schedule


def ddim_steps(schedule: Schedule, eta: float = 0.0) -> Step:
    """Makes each step by `ddim_step`."""

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        x_0, t = denoise(state.x_t, training_time(schedule, state.x_t, i)), for_batch(state.x_t, i)
        return State(ddim_step(schedule, state.x_t, t, x_0, noise_at(i), eta), x_0)

    return step


def ddim_step(
    schedule: Schedule, x_t: jax.Array, t: jax.Array, x_0: jax.Array, noise: jax.Array, eta: float = 0.0
) -> jax.Array:
    """Takes one step of DDIM with stochasticity eta to x_{t-1} (arXiv 2010.02502, eq. 12); step 0 gives x_0 itself.

    Arguments as in `ancestral_step`; eta 0 is deterministic, 1 has the variance of the ancestral sampler's posterior.
    """
    alpha_bar, alpha_bar_prev = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev))  # eq. 16
    direction = process.noise_from_x_0(schedule, x_t, t, x_0)
    return (
        process.at(np.sqrt(alpha_bar_prev), t, x_t) * x_0
        + process.at(np.sqrt(np.maximum(1 - alpha_bar_prev - sigma**2, 0)), t, x_t) * direction
        + process.at(sigma, t, x_t) * noise
    )
