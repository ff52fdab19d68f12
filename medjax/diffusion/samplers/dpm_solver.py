"""Samples by DPM-Solver++(2M), multistep, of second order, one estimate a step (arXiv 2211.01095, algorithm 2, app. D.3)."""

import jax
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.samplers.loop import Denoise, NoiseAt, State, Step, for_batch, training_time
from medjax.diffusion.schedules import Schedule


def dpm_solver_steps(schedule: Schedule, stochastic: bool = False) -> Step:
    """Solves the probability-flow equation, or the reverse stochastic one, exactly but for how x_0's estimate changes.

    Between two steps the estimate is taken to go on as it did between the two before. The first step has none before it,
    and for the last one, to no noise at all, the estimate is the result: both are of first order.
    """
    signal, noise = np.sqrt(schedule.alphas_cumprod), np.sqrt(1 - schedule.alphas_cumprod)
    next_signal, next_noise = np.append(1.0, signal[:-1]), np.append(0.0, noise[:-1])
    shrink = signal * next_noise / (noise * next_signal)  # e^-h, h the step in log(signal / noise)
    if stochastic:
        of_x_t = next_noise / noise * shrink
        of_x_0 = next_signal * (1 - shrink**2)
        of_noise = next_noise * np.sqrt(1 - shrink**2)
    else:
        of_x_t = next_noise / noise
        of_x_0 = next_signal * (1 - shrink)
        of_noise = np.zeros_like(noise)
    trend = _trend(shrink)

    def step(denoise: Denoise, noise_at: NoiseAt, state: State, i: jax.Array) -> State:
        x_t, previous = state
        x_0, t = denoise(x_t, training_time(schedule, x_t, i)), for_batch(x_t, i)
        extrapolated = x_0 + process.at(trend, t, x_t) * (x_0 - previous)
        x_next = process.at(of_x_t, t, x_t) * x_t + process.at(of_x_0, t, x_t) * extrapolated
        if stochastic:
            x_next += process.at(of_noise, t, x_t) * noise_at(i)
        return State(x_next, x_0)

    return step


def _trend(shrink: np.ndarray) -> np.ndarray:
    """Computes h_i / (2 h_{i+1}), how far to extrapolate at each step; 0 at the first and the last."""
    trend = np.zeros_like(shrink)
    if len(shrink) > 2:
        # At the noisy end h may be infinite (no signal at all), and then nothing is extrapolated from it.
        with np.errstate(divide="ignore"):
            h = -np.log(shrink[1:])
        trend[1:-1] = h[:-1] / (2 * h[1:])
    return trend
