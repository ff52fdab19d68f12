"""Samples by the diffusion's own reverse process (arXiv 2006.11239), variances fixed or learned."""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import learned_variance, process
from medjax.diffusion.samplers.loop import Denoise, NoiseAt, State, Step, for_batch, training_time
from medjax.diffusion.schedules import Schedule


def ancestral_steps(schedule: Schedule, variance: np.ndarray | None = None) -> Step:
    """Makes each step by `ancestral_step`."""

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        x_0, t = denoise(state.x_t, training_time(schedule, state.x_t, i)), for_batch(state.x_t, i)
        return State(ancestral_step(schedule, state.x_t, t, x_0, noise_at(i), variance), x_0)

    return step


def learned_ancestral_steps(schedule: Schedule) -> Step:
    """Makes each step by `ancestral_step` with the network's own variance: `denoise` gives (x_0, v), see learned_variance.py."""

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        (x_0, v), t = denoise(state.x_t, training_time(schedule, state.x_t, i)), for_batch(state.x_t, i)
        deviation = jnp.exp(learned_variance.log_variance(schedule, state.x_t, t, v) / 2)
        mean = process.posterior_mean(schedule, state.x_t, t, x_0)
        return State(mean + jnp.where(i > 0, deviation, 0) * noise_at(i), x_0)

    return step


def ancestral_step(
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    x_0: jax.Array,
    noise: jax.Array,
    variance: np.ndarray | None = None,
) -> jax.Array:
    """Draws x_{t-1} from q(x_{t-1} | x_t, x_0) (arXiv 2006.11239, algorithm 2).

    Args:
      schedule: its steps are those of the sampler.
      x_t: [B, ...].
      t: [B], steps of the schedule.
      x_0: the estimate of x_0, like x_t.
      noise: standard normal, like x_t; not added at step 0.
      variance: a table [T] of the schedule, `fixed_large_variance` by default.
    """
    variance = schedule.fixed_large_variance if variance is None else variance
    scale = process.at(np.append(0.0, np.sqrt(variance[1:])), t, x_t)
    return process.posterior_mean(schedule, x_t, t, x_0) + scale * noise
