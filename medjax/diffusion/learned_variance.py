"""Defines learned variances: half of a network's channels say where between beta_t and the posterior variance each lies.

arXiv 2102.09672, section 3.1. Fractions v in [-1, 1], like x; -1 is the posterior variance, 1 is beta_t.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.schedules import Schedule

VLB_WEIGHT = 0.001  # of the bound beside the simple loss, at any number of steps: lambda of eq. 16


def log_variance(schedule: Schedule, x: jax.Array, t: jax.Array, v: jax.Array) -> jax.Array:
    """Returns the logarithm of the variance of p(x_{t-1} | x_t), like v (eq. 15, v there being (v + 1) / 2)."""
    largest = process.at(np.log(schedule.betas), t, x)
    smallest = process.at(schedule.posterior_log_variance_clipped, t, x)
    share = (v + 1) / 2
    return share * largest + (1 - share) * smallest


def bound(
    schedule: Schedule, x_0: jax.Array, x_t: jax.Array, t: jax.Array, estimate: jax.Array, v: jax.Array
) -> jax.Array:
    """Computes each example's term of the variational bound, bits a value, [B] (arXiv 2006.11239, eq. 5).

    KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), and at t = 0 the negative log-density of x_0. Gradients reach the
    variance alone: the estimate of x_0 is taught by the simple loss.
    """
    mean = process.posterior_mean(schedule, x_t, t, x_0)
    predicted = process.posterior_mean(schedule, x_t, t, jax.lax.stop_gradient(estimate))
    true = process.at(schedule.posterior_log_variance_clipped, t, x_0)
    log = log_variance(schedule, x_0, t, v)
    divergence = (log - true + jnp.exp(true - log) + (mean - predicted) ** 2 * jnp.exp(-log) - 1) / 2
    density = (np.log(2 * np.pi) + log + (x_0 - predicted) ** 2 * jnp.exp(-log)) / 2
    at_0 = (t == 0).reshape(-1, *(1,) * (x_0.ndim - 1))
    return jnp.mean(jnp.where(at_0, density, divergence), axis=tuple(range(1, x_0.ndim))) / np.log(2)
