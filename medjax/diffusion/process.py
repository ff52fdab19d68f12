"""Defines the Gaussian diffusion process: x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) noise.

Everywhere x is [B, ...] and t is [B], indices into the schedule's tables, or fractions between them where a network was
trained at all times or is told another schedule's: between two steps the share of noise goes evenly from one to the other
(`Schedule.flow_times`). Written alpha_bar as in arXiv 2006.11239.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion.schedules import Schedule


def q_sample(schedule: Schedule, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Draws x_t ~ q(x_t | x_0) for standard normal noise of x_0's shape (eq. 4)."""
    return _signal(schedule, t, x_0) * x_0 + _noise(schedule, t, x_0) * noise


def x_0_from_noise(schedule: Schedule, x_t: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns the x_0 from which this noise gives x_t."""
    if not _is_whole(t):
        return (x_t - _noise(schedule, t, x_t) * noise) / _signal(schedule, t, x_t)
    inverse = at(schedule.alphas_cumprod**-0.5, t, x_t)
    return inverse * x_t - at(np.sqrt(1 / schedule.alphas_cumprod - 1), t, x_t) * noise


def noise_from_x_0(schedule: Schedule, x_t: jax.Array, t: jax.Array, x_0: jax.Array) -> jax.Array:
    """Returns the noise that gives x_t from this x_0."""
    return (x_t - _signal(schedule, t, x_t) * x_0) / _noise(schedule, t, x_t)


def velocity(schedule: Schedule, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Computes v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x_0, another target to predict (arXiv 2202.00512, app. D)."""
    return _signal(schedule, t, x_0) * noise - _noise(schedule, t, x_0) * x_0


def x_0_from_velocity(schedule: Schedule, x_t: jax.Array, t: jax.Array, v: jax.Array) -> jax.Array:
    """Returns the x_0 whose velocity at x_t is v."""
    return _signal(schedule, t, x_t) * x_t - _noise(schedule, t, x_t) * v


def flow(x_0: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns the velocity noise - x_0 of the straight line from x_0 to noise, constant along it (arXiv 2209.03003, eq. 1)."""
    return noise - x_0


def x_0_from_flow(schedule: Schedule, x_t: jax.Array, t: jax.Array, velocity: jax.Array) -> jax.Array:
    """Returns the x_0 whose straight line through x_t has this velocity."""
    signal, noise = _signal(schedule, t, x_t), _noise(schedule, t, x_t)
    return (x_t - noise * velocity) / (signal + noise)


def on_the_line(schedule: Schedule, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Returns x_t as the point (1 - u) x_0 + u noise of the straight line, u the schedule's flow time."""
    return x_t / (_signal(schedule, t, x_t) + _noise(schedule, t, x_t))


def snr(schedule: Schedule, t: jax.Array) -> jax.Array:
    """Returns the signal-to-noise ratio alpha_bar / (1 - alpha_bar) at t, [B]."""
    return (_signal(schedule, t, t) / _noise(schedule, t, t)) ** 2


def posterior_mean(schedule: Schedule, x_t: jax.Array, t: jax.Array, x_0: jax.Array) -> jax.Array:
    """Computes the mean of q(x_{t-1} | x_t, x_0) (eq. 7); its variance is a table of the schedule."""
    return at(schedule.posterior_mean_coef1, t, x_t) * x_0 + at(schedule.posterior_mean_coef2, t, x_t) * x_t


def at(table: np.ndarray, t: jax.Array, x: jax.Array) -> jax.Array:
    """Returns table[t], rounded to x's precision, shaped [B, 1, ...] to multiply x."""
    dtype = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    return jnp.asarray(table, dtype)[t].reshape(-1, *(1,) * (x.ndim - 1))


def _signal(schedule: Schedule, t: jax.Array, x: jax.Array) -> jax.Array:
    if _is_whole(t):
        return at(np.sqrt(schedule.alphas_cumprod), t, x)
    u = _flow_time(schedule, t, x)
    return (1 - u) / jnp.hypot(1 - u, u)


def _noise(schedule: Schedule, t: jax.Array, x: jax.Array) -> jax.Array:
    if _is_whole(t):
        return at(np.sqrt(1 - schedule.alphas_cumprod), t, x)
    u = _flow_time(schedule, t, x)
    return u / jnp.hypot(1 - u, u)


def _flow_time(schedule: Schedule, t: jax.Array, x: jax.Array) -> jax.Array:
    table = jnp.asarray(schedule.flow_times, x.dtype)
    u = jnp.interp(t.astype(x.dtype), jnp.arange(schedule.steps, dtype=x.dtype), table)
    return u.reshape(-1, *(1,) * (x.ndim - 1))


def _is_whole(t: jax.Array) -> bool:
    return jnp.issubdtype(jnp.asarray(t).dtype, jnp.integer)
