"""Samplers: from noise x_T to x_0 through the steps of a schedule, as one `lax.scan`.

A sampler takes
- `denoise(x_t, t)`: the estimate of x_0 from x_t at the training timesteps t [B], clamped as the caller likes;
- `noise_at(i)`: the standard normal noise, like x_t, of step i of the schedule: the caller decides what it depends on;
- the schedule, respaced for fewer steps. Steps run from its last to 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.schedules import Schedule

Denoise = Callable[[jax.Array, jax.Array], jax.Array]
NoiseAt = Callable[[jax.Array], jax.Array]


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


def ancestral(
    denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule, variance: np.ndarray | None = None
) -> jax.Array:
    """Samples x_0 by `ancestral_step`s from x_T [B, ...]."""

    def step(x_t: jax.Array, t: jax.Array, x_0: jax.Array, noise: jax.Array) -> jax.Array:
        return ancestral_step(schedule, x_t, t, x_0, noise, variance)

    return _scan(step, denoise, x_T, noise_at, schedule)


def ddim(denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule, eta: float = 0.0) -> jax.Array:
    """Samples x_0 by `ddim_step`s from x_T [B, ...]."""

    def step(x_t: jax.Array, t: jax.Array, x_0: jax.Array, noise: jax.Array) -> jax.Array:
        return ddim_step(schedule, x_t, t, x_0, noise, eta)

    return _scan(step, denoise, x_T, noise_at, schedule)


def _scan(step: Callable, denoise: Denoise, x_T: jax.Array, noise_at: NoiseAt, schedule: Schedule) -> jax.Array:
    timesteps = jnp.asarray(schedule.timesteps, jnp.int32)

    def body(x_t: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        t = jnp.full(x_t.shape[:1], i)
        x_0 = denoise(x_t, timesteps[t])
        return step(x_t, t, x_0, noise_at(i)), None

    return jax.lax.scan(body, x_T, jnp.arange(schedule.steps), reverse=True)[0]
