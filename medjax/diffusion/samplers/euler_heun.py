"""Solves dy/du = velocity by Euler and Heun, y the point of a straight line from x_0 (u = 0) to noise (u = 1).

That is how flows are sampled (arXiv 2209.03003), and the probability flow of any variance-preserving process divided by
signal + noise. In y there is no noise level without end, as in arXiv 2206.00364, and the velocity is bounded everywhere.
"""

import jax
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.samplers.loop import Denoise, NoiseAt, State, Step, for_batch, training_time
from medjax.diffusion.schedules import Schedule


def euler_steps(schedule: Schedule) -> Step:
    """Takes one estimate a step, of first order; DDIM without noise, to rounding."""
    length, u, next_u, next_length = _line(schedule)

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        del noise_at
        x_t, t = state.x_t, for_batch(state.x_t, i)
        x_0 = denoise(x_t, training_time(schedule, x_t, i))
        y = _towards(x_0, x_t / process.at(length, t, x_t), process.at(next_u / u, t, x_t))
        return State(y * process.at(next_length, t, x_t), x_0)

    return step


def heun_steps(schedule: Schedule) -> Step:
    """Takes two estimates a step, of second order: the velocities at both ends, averaged (arXiv 2206.00364, algorithm 1).

    The last step, to no noise at all, is Euler's, so n steps take 2n - 1 estimates.
    """
    length, u, next_u, next_length = _line(schedule)

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        del noise_at
        x_t, t = state.x_t, for_batch(state.x_t, i)
        y = x_t / process.at(length, t, x_t)
        x_0 = denoise(x_t, training_time(schedule, x_t, i))
        to = _towards(x_0, y, process.at(next_u / u, t, x_t))

        def corrected(to: jax.Array) -> jax.Array:
            x_0_there = denoise(to * process.at(next_length, t, x_t), training_time(schedule, x_t, i - 1))
            velocity = (y - x_0) / process.at(u, t, x_t)
            velocity_there = (to - x_0_there) / process.at(next_u, t, x_t)
            return y + process.at(next_u - u, t, x_t) * (velocity + velocity_there) / 2

        if schedule.steps > 1:
            to = jax.lax.cond(i > 0, corrected, lambda to: to, to)
        return State(to * process.at(next_length, t, x_t), x_0)

    return step


def _towards(x_0: jax.Array, y: jax.Array, share: jax.Array) -> jax.Array:
    """Returns y after an Euler step that leaves this share of its noise; x_0 itself, exactly, where none is left."""
    return x_0 + share * (y - x_0)


def _line(schedule: Schedule) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns, for each step: signal + noise, the flow time, and both one step further."""
    length = np.sqrt(schedule.alphas_cumprod) + np.sqrt(1 - schedule.alphas_cumprod)
    u = schedule.flow_times
    return length, u, np.append(0.0, u[:-1]), np.append(1.0, length[:-1])
