"""Samplers against data whose best denoiser is known: x_0 ~ N(mean, deviation^2), each voxel alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.diffusion import process
from medjax.diffusion.samplers.ancestral import ancestral_step
from medjax.diffusion.samplers.ddim import ddim_step
from medjax.diffusion.schedules import cosine, linear, respace
from tolerance import assert_equal_but_for_rounding
from whole_samples import ancestral, ddim

MEAN, DEVIATION = 0.7, 0.3
SHAPE = (64, 4, 4, 4, 1)


def best_denoiser(schedule):
    """E[x_0 | x_t], with t a timestep of `schedule`."""
    alphas_cumprod = jnp.asarray(schedule.alphas_cumprod, jnp.float32)

    def denoise(x_t, t):
        alpha_bar = alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        gain = jnp.sqrt(alpha_bar) * DEVIATION**2 / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)
        return MEAN + gain * (x_t - jnp.sqrt(alpha_bar) * MEAN)

    return denoise


def noise_at(i):
    return jax.random.normal(jax.random.fold_in(jax.random.key(1), i), SHAPE)


X_T = jax.random.normal(jax.random.key(0), SHAPE)


@pytest.mark.parametrize("steps", [1000, 100])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "ddim with noise"])
def test_samples_follow_the_data(sampler, steps):
    whole = linear(1000)
    schedule = respace(whole, steps)
    sample = {
        "ancestral": lambda: ancestral(best_denoiser(whole), X_T, noise_at, schedule, schedule.posterior_variance),
        "ddim": lambda: ddim(best_denoiser(whole), X_T, noise_at, schedule),
        "ddim with noise": lambda: ddim(best_denoiser(whole), X_T, noise_at, schedule, eta=0.5),
    }[sampler]
    x_0 = jax.jit(sample)()
    assert x_0.shape == SHAPE
    assert x_0.dtype == jnp.float32
    np.testing.assert_allclose(x_0.mean(), MEAN, atol=0.02)
    # A few steps lose some of the spread; thousands do not.
    np.testing.assert_allclose(x_0.std(), DEVIATION, rtol=0.05 if steps == 1000 else 0.15)


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("sample", [ancestral, ddim])
def test_ends_exactly_at_the_last_estimate(sample, steps):
    """The last step reaches alpha_bar = 1 and adds no noise."""
    target = jax.random.normal(jax.random.key(2), SHAPE)
    x_0 = sample(lambda x_t, t: target, X_T, noise_at, respace(cosine(100), steps))
    assert_equal_but_for_rounding(x_0, target, units=16)


def test_steps_run_from_the_last_training_timestep_to_the_first():
    schedule, seen = respace(linear(1000), 4), []

    def denoise(x_t, t):
        jax.debug.callback(lambda t: seen.append(t.tolist()), t, ordered=True)
        return jnp.zeros_like(x_t)

    jax.block_until_ready(ddim(denoise, X_T[:2], lambda i: jnp.zeros((2, *SHAPE[1:])), schedule))
    jax.effects_barrier()
    assert seen == [[999, 999], [666, 666], [333, 333], [0, 0]]


def test_each_step_has_its_own_noise():
    """With x_0 estimated as zero, a sample before the last step is a known sum of the noises."""
    schedule = respace(linear(1000), 3)
    seen = []

    def denoise(x_t, t):
        jax.debug.callback(lambda x: seen.append(x), x_t, ordered=True)
        return jnp.zeros_like(x_t)

    jax.block_until_ready(ancestral(denoise, X_T, noise_at, schedule))
    jax.effects_barrier()
    expected = X_T
    for step, i in enumerate((2, 1)):
        expected = schedule.posterior_mean_coef2[i] * expected + np.sqrt(schedule.fixed_large_variance[i]) * noise_at(i)
        np.testing.assert_allclose(seen[step + 1], expected, atol=1e-5)


def test_ddim_with_full_eta_is_the_ancestral_posterior():
    """Arguments as in section 4.1 of the DDIM paper: eta 1 draws from q(x_{t-1} | x_t, x_0)."""
    schedule = linear(100)
    t = jnp.array([1, 30, 99])
    x_t, x_0, noise = jax.random.normal(jax.random.key(3), (3, 3, 2, 2, 2, 1))
    ddim = ddim_step(schedule, x_t, t, x_0, noise, eta=1.0)
    ancestral = ancestral_step(schedule, x_t, t, x_0, noise, variance=schedule.posterior_variance)
    np.testing.assert_allclose(ddim, ancestral, atol=2e-5)


def test_deterministic_ddim_stays_on_the_line_from_noise_to_x_0():
    schedule = linear(100)
    t = jnp.array([1, 30, 99])
    x_0, noise = jax.random.normal(jax.random.key(4), (2, 3, 2, 2, 2, 1))
    stepped = ddim_step(schedule, process.q_sample(schedule, x_0, t, noise), t, x_0, jnp.full_like(x_0, 9.0))
    np.testing.assert_allclose(stepped, process.q_sample(schedule, x_0, t - 1, noise), atol=2e-5)
