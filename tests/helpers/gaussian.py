"""Data whose best denoiser is known: x_0 ~ N(MEAN, DEVIATION^2), each voxel alone."""

import jax.numpy as jnp
import numpy as np

MEAN, DEVIATION = 0.7, 0.3


def best_denoiser(schedule):
    """E[x_0 | x_t], with t a timestep of `schedule`, whole or between two."""

    def denoise(x_t, t):
        u = jnp.interp(t.astype(x_t.dtype), np.arange(schedule.steps), schedule.flow_times).astype(x_t.dtype)
        u = u.reshape(-1, *(1,) * (x_t.ndim - 1))
        signal, noise = (1 - u) / jnp.hypot(1 - u, u), u / jnp.hypot(1 - u, u)
        gain = signal * DEVIATION**2 / (signal**2 * DEVIATION**2 + noise**2)
        return MEAN + gain * (x_t - signal * MEAN)

    return denoise
