"""Samplers: from noise x_T to x_0 through the steps of a schedule. Here the loop, the ancestral sampler and DDIM.

A sampler is a `Step`. It knows nothing of networks; it takes
- `denoise(x_t, t)`: the estimate of x_0 from x_t at the training timesteps t [B], clamped as the caller likes;
- `noise_at(i)`: the standard normal noise, like x_t, of step i of the schedule: the caller decides what it depends on.
Steps run from the last of a schedule, respaced for fewer of them, to 0, whose result is the last estimate itself.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import learned_variance, process
from medjax.diffusion.schedules import Schedule

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
NoiseAt = Callable[[jax.Array], jax.Array]


class State(NamedTuple):
    """Holds where a sampler is.

    Attributes:
      x_t: [B, ...].
      x_0: the estimate that led to x_t, which multistep methods go on from; nothing in particular before the first step.
    """

    x_t: jax.Array
    x_0: jax.Array


Step = Callable[[Denoise, NoiseAt, State, jax.Array], State]  # the last: i, which step of the schedule to take


def first_state(x_T: jax.Array) -> State:
    """Returns the state of a sampler that has not yet taken a step."""
    return State(x_T, jnp.zeros_like(x_T))


def run(
    step: Step, denoise: Denoise, noise_at: NoiseAt, state: State, first: int | jax.Array, end: int | jax.Array
) -> State:
    """Takes the steps first, first - 1, ..., down to `end` exclusive.

    With traced bounds one compiled program takes any stretch of the way, so where the way is cut changes no bit.
    """
    return jax.lax.fori_loop(0, first - end, lambda n, state: step(denoise, noise_at, state, first - n), state)


def sample(step: Step, denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, steps: int) -> jax.Array:
    """All steps in one loop, from x_T [B, ...] to x_0."""
    return run(step, denoise, noise_at, first_state(x_T), steps - 1, -1).x_t


def ancestral(
    denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule, variance: np.ndarray | None = None
) -> jax.Array:
    """Samples x_0 by `ancestral_step`s from x_T [B, ...]."""
    return sample(ancestral_steps(schedule, variance), denoise, x_T, noise_at, schedule.steps)


def ddim(denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule, eta: float = 0.0) -> jax.Array:
    """Samples x_0 by `ddim_step`s from x_T [B, ...]."""
    return sample(ddim_steps(schedule, eta), denoise, x_T, noise_at, schedule.steps)


def ancestral_steps(schedule: Schedule, variance: np.ndarray | None = None) -> Step:
    """Each step by `ancestral_step`."""

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        x_0, t = denoise(state.x_t, training_time(schedule, state.x_t, i)), for_batch(state.x_t, i)
        return State(ancestral_step(schedule, state.x_t, t, x_0, noise_at(i), variance), x_0)

    return step


def learned_ancestral_steps(schedule: Schedule) -> Step:
    """Each step by `ancestral_step` with the network's own variance: `denoise` gives (x_0, v) as learned_variance.py says."""

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        (x_0, v), t = denoise(state.x_t, training_time(schedule, state.x_t, i)), for_batch(state.x_t, i)
        deviation = jnp.exp(learned_variance.log_variance(schedule, state.x_t, t, v) / 2)
        mean = process.posterior_mean(schedule, state.x_t, t, x_0)
        return State(mean + jnp.where(i > 0, deviation, 0) * noise_at(i), x_0)

    return step


def ddim_steps(schedule: Schedule, eta: float = 0.0) -> Step:
    """Each step by `ddim_step`."""

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        x_0, t = denoise(state.x_t, training_time(schedule, state.x_t, i)), for_batch(state.x_t, i)
        return State(ddim_step(schedule, state.x_t, t, x_0, noise_at(i), eta), x_0)

    return step


def ancestral_step(
    schedule: Schedule,
    x_t: jax.Array,
    t: jax.Array,
    x_0: jax.Array,
    noise: jax.Array,
    variance: np.ndarray | None = None,
) -> jax.Array:
    """x_{t-1} drawn from q(x_{t-1} | x_t, x_0) (arXiv 2006.11239, algorithm 2).

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


def ddim_step(
    schedule: Schedule, x_t: jax.Array, t: jax.Array, x_0: jax.Array, noise: jax.Array, eta: float = 0.0
) -> jax.Array:
    """x_{t-1} of the DDIM with stochasticity eta (arXiv 2010.02502, eq. 12); step 0 gives x_0 itself.

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


def for_batch(x_t: jax.Array, i: jax.Array) -> jax.Array:
    """Step i for every example: [B]."""
    return jnp.full(x_t.shape[:1], i)


def training_time(schedule: Schedule, x_t: jax.Array, i: jax.Array) -> jax.Array:
    """Returns the time that the network is told at step i: [B], int32, or float where the schedule has fractions."""
    is_whole = np.issubdtype(schedule.timesteps.dtype, np.integer)
    timesteps = jnp.asarray(schedule.timesteps, jnp.int32 if is_whole else x_t.dtype)
    return timesteps[for_batch(x_t, i)]
