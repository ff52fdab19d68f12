"""The Gaussian diffusion process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise.

Everywhere x is [B, ...] and t is [B], indices into the schedule's tables. Written alpha_bar as in arXiv 2006.11239.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion.schedules import Schedule


def q_sample(schedule: Schedule, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """x_t ~ q(x_t | x_0) for standard normal noise of x_0's shape (eq. 4)."""
    return _signal(schedule, t, x_0) * x_0 + _noise(schedule, t, x_0) * noise


def x_0_from_noise(schedule: Schedule, x_t: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """The x_0 from which this noise gives x_t."""
    inverse = at(schedule.alphas_cumprod**-0.5, t, x_t)
    return inverse * x_t - at(np.sqrt(1 / schedule.alphas_cumprod - 1), t, x_t) * noise


def noise_from_x_0(schedule: Schedule, x_t: jax.Array, t: jax.Array, x_0: jax.Array) -> jax.Array:
    """The noise that gives x_t from this x_0."""
    return (x_t - _signal(schedule, t, x_t) * x_0) / _noise(schedule, t, x_t)


def velocity(schedule: Schedule, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0, another target to predict (arXiv 2202.00512, app. D)."""
    return _signal(schedule, t, x_0) * noise - _noise(schedule, t, x_0) * x_0


def x_0_from_velocity(schedule: Schedule, x_t: jax.Array, t: jax.Array, v: jax.Array) -> jax.Array:
    """The x_0 whose velocity at x_t is v."""
    return _signal(schedule, t, x_t) * x_t - _noise(schedule, t, x_t) * v


def posterior_mean(schedule: Schedule, x_t: jax.Array, t: jax.Array, x_0: jax.Array) -> jax.Array:
    """Mean of q(x_{t-1} | x_t, x_0) (eq. 7); its variance is a table of the schedule."""
    return at(schedule.posterior_mean_coef1, t, x_t) * x_0 + at(schedule.posterior_mean_coef2, t, x_t) * x_t


def at(table: np.ndarray, t: jax.Array, x: jax.Array) -> jax.Array:
    """table[t], rounded to float32, shaped [B, 1, ...] to multiply x."""
    return jnp.asarray(table, jnp.float32)[t].reshape(-1, *(1,) * (x.ndim - 1))


def _signal(schedule: Schedule, t: jax.Array, x: jax.Array) -> jax.Array:
    return at(np.sqrt(schedule.alphas_cumprod), t, x)


def _noise(schedule: Schedule, t: jax.Array, x: jax.Array) -> jax.Array:
    return at(np.sqrt(1 - schedule.alphas_cumprod), t, x)
