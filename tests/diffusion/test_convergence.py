"""How fast each solver's error falls with its steps, on Gaussian data, in float64: the order that its theory promises.

On such data every step is affine in x_T and in its noise, so the mean and the variance of the samples are known without
drawing any: row j of a batch is given one unit of noise at step j and none elsewhere.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaussian import DEVIATION, MEAN, best_denoiser
from medjax.diffusion.samplers import loop
from medjax.diffusion.samplers.ancestral import ancestral_steps
from medjax.diffusion.samplers.ddim import ddim_steps
from medjax.diffusion.samplers.dpm_solver import dpm_solver_steps
from medjax.diffusion.samplers.euler_heun import euler_steps, heun_steps
from medjax.diffusion.schedules import cosine, flow, from_alphas_cumprod, vp

SOLVERS = {
    "ddim": (ddim_steps, 1),
    "ddim with noise": (lambda schedule: ddim_steps(schedule, eta=1.0), 1),
    "ancestral": (lambda schedule: ancestral_steps(schedule, schedule.posterior_variance), 1),
    "euler": (euler_steps, 1),
    "heun": (heun_steps, 2),
    "dpm_solver": (dpm_solver_steps, 2),
    "dpm_solver_sde": (lambda schedule: dpm_solver_steps(schedule, stochastic=True), 2),
}


def moments(make_steps, schedule, last=0):
    """Mean and standard deviation, at step `last` - 1, of what a sampler makes with the best denoiser.

    It starts from the exact distribution of x_T; step -1 is the sample.
    """
    steps = schedule.steps
    signal, noise = np.sqrt(schedule.alphas_cumprod[-1]), np.sqrt(1 - schedule.alphas_cumprod[-1])
    rows = jnp.arange(steps + 2)  # of noise at steps 0 .. T-1, of x_T, and of none
    with jax.enable_x64():

        def only(i):
            return jnp.where(rows == i, 1.0, 0.0).astype(jnp.float64)[:, None]

        def run(spread):
            state = loop.first_state(signal * MEAN + spread * only(steps))
            return loop.run(make_steps(schedule), best_denoiser(schedule), only, state, steps - 1, last - 1).x_t

        x = np.asarray(jax.jit(run)(np.hypot(signal * DEVIATION, noise)))[:, 0]
    assert x.dtype == np.float64
    return x[-1], np.sqrt(np.sum((x[:-1] - x[-1]) ** 2))


@pytest.mark.parametrize("make_schedule", [flow, vp, cosine], ids=["flow", "vp", "cosine"])
@pytest.mark.parametrize("name", SOLVERS)
def test_reaches_the_mean_and_the_spread(name, make_schedule):
    make_steps, order = SOLVERS[name]
    mean, deviation = moments(make_steps, make_schedule(400))
    assert abs(mean - MEAN) < 1e-12
    assert abs(deviation - DEVIATION) < (0.01 if order == 1 else 2e-3)
    assert abs(deviation - DEVIATION) < abs(moments(make_steps, make_schedule(10))[1] - DEVIATION) / 8


@pytest.mark.parametrize("even", ["flow times", "log of signal to noise"])
@pytest.mark.parametrize("name", SOLVERS)
def test_order(name, even):
    """Over a fixed stretch of noise levels, cut evenly: twice the steps divide the error by 2^order."""
    make_steps, order = SOLVERS[name]

    def error(steps):
        if even == "flow times":
            u = np.linspace(0.1, 0.9, steps + 1)
        else:
            u = 1 / (1 + np.exp(np.linspace(np.log(9), -np.log(9), steps + 1)))
        schedule = from_alphas_cumprod((1 - u) ** 2 / ((1 - u) ** 2 + u**2))
        signal, noise = np.sqrt(schedule.alphas_cumprod[0]), np.sqrt(1 - schedule.alphas_cumprod[0])
        mean, deviation = moments(make_steps, schedule, last=1)
        assert abs(mean - signal * MEAN) < 1e-12
        return abs(deviation - np.hypot(signal * DEVIATION, noise))

    measured = np.log2(error(200) / error(400))
    assert abs(measured - order) < 0.1, measured
