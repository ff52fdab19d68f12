"""Runs a sampler: from noise x_T to x_0 through the steps of a schedule.

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
    """Takes all steps in one loop, from x_T [B, ...] to x_0."""
    return run(step, denoise, noise_at, first_state(x_T), steps - 1, -1).x_t


def for_batch(x_t: jax.Array, i: jax.Array) -> jax.Array:
    """Repeats step i for every example: [B]."""
    return jnp.full(x_t.shape[:1], i)


def training_time(schedule: Schedule, x_t: jax.Array, i: jax.Array) -> jax.Array:
    """Returns the time that the network is told at step i: [B], int32, or float where the schedule has fractions."""
    is_whole = np.issubdtype(schedule.timesteps.dtype, np.integer)
    timesteps = jnp.asarray(schedule.timesteps, jnp.int32 if is_whole else x_t.dtype)
    return timesteps[for_batch(x_t, i)]
