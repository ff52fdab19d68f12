"""Defines what a network may predict: x_0, the noise, v or the flow. Each gives x_0, so samplers need not know which.

Everywhere x is [B, ...] and t is [B], as in process.py.
"""

import jax
import jax.numpy as jnp

from medjax.diffusion import process
from medjax.diffusion.schedules import Schedule

PREDICTIONS = ("x_0", "noise", "v", "flow")


def network_input(prediction: str, schedule: Schedule, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Returns what the network sees of x_t: x_t itself, or for a flow the point of the straight line."""
    return process.on_the_line(schedule, x_t, t) if prediction == "flow" else x_t


def target(prediction: str, schedule: Schedule, x_0: jax.Array, t: jax.Array, noise: jax.Array) -> jax.Array:
    """Returns what the network should predict from the x_t that was made of this x_0 and this noise."""
    match prediction:
        case "x_0":
            return x_0
        case "noise":
            return noise
        case "v":
            return process.velocity(schedule, x_0, t, noise)
        case "flow":
            return process.flow(x_0, noise)
    raise ValueError(f"prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")


def x_0_from(prediction: str, schedule: Schedule, x_t: jax.Array, t: jax.Array, predicted: jax.Array) -> jax.Array:
    """Returns the x_0 that a prediction means."""
    match prediction:
        case "x_0":
            return predicted
        case "noise":
            return process.x_0_from_noise(schedule, x_t, t, predicted)
        case "v":
            return process.x_0_from_velocity(schedule, x_t, t, predicted)
        case "flow":
            return process.x_0_from_flow(schedule, x_t, t, predicted)
    raise ValueError(f"prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")


def min_snr_weight(prediction: str, schedule: Schedule, t: jax.Array, gamma: float) -> jax.Array:
    """Returns weights [B] of squared errors that are worth min(SNR, gamma) times those of x_0 (arXiv 2303.09556, eq. 8).

    An error of 1 in the prediction is one of `share` in x_0, so what is min(SNR, gamma) for x_0 is that times share^2.
    """
    snr = process.snr(schedule, t)
    match prediction:
        case "x_0":
            share = jnp.ones_like(snr)
        case "noise":
            share = 1 / snr
        case "v":
            share = 1 / (1 + snr)
        case "flow":
            share = 1 / (1 + jnp.sqrt(snr)) ** 2
        case _:
            raise ValueError(f"prediction {prediction!r}: choose one of {', '.join(PREDICTIONS)}")
    return jnp.minimum(snr, gamma) * share
