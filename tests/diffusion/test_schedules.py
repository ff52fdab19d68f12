import numpy as np
import pytest

from medjax.diffusion.samplers.options import Sampling
from medjax.diffusion.schedules import (
    Schedule,
    cosine,
    evenly_spaced,
    flow,
    follow,
    karras,
    linear,
    log_snr,
    respace,
    respace_to,
    vp,
)


def test_the_largest_beta_of_a_cosine_schedule_decides_how_much_signal_is_left():
    assert (cosine(300).betas[-1], cosine(300, max_beta=0.9999).betas[-1]) == (0.999, 0.9999)
    np.testing.assert_array_equal(cosine(300).betas[:-1], cosine(300, max_beta=0.9999).betas[:-1])


@pytest.mark.parametrize("schedule", [linear(1000), linear(21), cosine(1000), cosine(1)], ids=lambda s: f"{s.steps}")
def test_variance_is_preserved_and_signal_is_lost(schedule):
    assert np.all((schedule.betas > 0) & (schedule.betas < 1))
    assert np.all(np.diff(schedule.alphas_cumprod) < 0)
    assert schedule.alphas_cumprod[-1] < 0.01
    assert schedule.alphas_cumprod_prev[0] == 1
    assert schedule.betas.dtype == schedule.posterior_variance.dtype == np.float64


def test_posterior_is_the_product_of_two_gaussians():
    """q(x_{t-1} | x_t, x_0) is q(x_t | x_{t-1}) times q(x_{t-1} | x_0): precisions add, means are weighted by them."""
    s = linear(100)
    t = np.arange(1, 100)
    alphas, prior_variance = 1 - s.betas[t], 1 - s.alphas_cumprod_prev[t]
    precision = alphas / s.betas[t] + 1 / prior_variance
    np.testing.assert_allclose(s.posterior_variance[t], 1 / precision)
    np.testing.assert_allclose(
        s.posterior_mean_coef1[t], np.sqrt(s.alphas_cumprod_prev[t]) / prior_variance / precision
    )
    np.testing.assert_allclose(s.posterior_mean_coef2[t], np.sqrt(alphas) / s.betas[t] / precision)
    np.testing.assert_array_equal(s.fixed_large_variance[1:], s.betas[1:])
    assert s.fixed_large_variance[0] == s.posterior_variance[1]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 299, 300])
def test_respaced_is_the_same_process(steps):
    whole = linear(300)
    few = respace(whole, steps)
    assert few.steps == len(few.timesteps) == steps
    assert few.timesteps[-1] == 299
    assert steps == 1 or few.timesteps[0] == 0
    assert np.all(np.diff(few.timesteps) > 0)
    np.testing.assert_allclose(few.alphas_cumprod, whole.alphas_cumprod[few.timesteps])


def test_respacing_twice_keeps_the_training_timesteps():
    twice = respace_to(respace(linear(1000), 100), evenly_spaced(100, 10))
    assert set(twice.timesteps) <= set(respace(linear(1000), 100).timesteps)
    np.testing.assert_allclose(twice.alphas_cumprod, linear(1000).alphas_cumprod[twice.timesteps])


def test_every_table_of_a_single_step_is_finite():
    few = respace(linear(1000), 1)
    for name in ("posterior_mean_coef1", "posterior_mean_coef2", "fixed_large_variance", "alphas_cumprod"):
        assert np.isfinite(getattr(few, name)).all(), name


def test_refuses():
    with pytest.raises(ValueError, match=r"20 steps.*at least 21"):
        linear(20)
    with pytest.raises(ValueError, match="0 steps"):
        cosine(0)
    for steps in (0, 51):
        with pytest.raises(ValueError, match=f"50 steps to {steps}: use 1 to 50"):
            respace(cosine(50), steps)


def test_is_frozen():
    with pytest.raises(AttributeError):
        linear(50).betas = None
    assert isinstance(linear(50), Schedule)


def test_vp_is_the_limit_of_linear():
    np.testing.assert_allclose(vp(10_000).alphas_cumprod, linear(10_000).alphas_cumprod, rtol=0.02, atol=1e-6)
    np.testing.assert_allclose(vp(2).alphas_cumprod, np.exp([-(0.05 + 19.9 / 8), -(0.1 + 19.9 / 2)]))


@pytest.mark.parametrize("steps", [1, 2, 10, 1000])
def test_flow_is_the_straight_line(steps):
    np.testing.assert_allclose(flow(steps).flow_times, np.arange(1, steps + 1) / steps, atol=1e-12)
    assert flow(steps).alphas_cumprod[-1] == 0
    for name in ("posterior_mean_coef1", "posterior_mean_coef2", "fixed_large_variance"):
        assert np.isfinite(getattr(flow(steps), name)).all(), name


def test_karras():
    sigma = np.sqrt(1 / karras(5).alphas_cumprod - 1)
    np.testing.assert_allclose(sigma[[0, -1]], [0.002, 80])
    np.testing.assert_allclose(np.diff(sigma ** (1 / 7), n=2), 0, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(1 / karras(1).alphas_cumprod - 1), 80)


@pytest.mark.parametrize(
    "trained", [linear(1000), cosine(300), flow(1000), vp(2)], ids=["linear", "cosine", "flow", "vp"]
)
def test_log_snr_divides_the_noise_by_the_same_factor_each_step_within_what_training_knows(trained):
    few = log_snr(trained, 9)
    noise = np.sqrt(1 / few.alphas_cumprod - 1)
    assert few.steps == 9
    np.testing.assert_allclose(noise[1:] / noise[:-1], noise[1] / noise[0])
    np.testing.assert_allclose(noise[0], np.sqrt(1 / trained.alphas_cumprod[0] - 1))
    np.testing.assert_allclose(noise[-1], 80)  # all of these schedules end in more
    assert np.all(np.diff(follow(trained, few).timesteps) > 0)
    np.testing.assert_allclose(log_snr(trained, 1).alphas_cumprod, few.alphas_cumprod[-1:])


@pytest.mark.parametrize("make", [vp, flow, karras, lambda steps: log_snr(linear(100), steps)])
def test_refuses_no_step(make):
    with pytest.raises(ValueError, match="0 steps: use at least 1"):
        make(0)


def test_following_another_schedule_keeps_its_levels_and_tells_the_time_of_the_same_noise():
    trained, levels = linear(1000), cosine(40)
    followed = follow(trained, levels)
    np.testing.assert_array_equal(followed.alphas_cumprod, levels.alphas_cumprod)
    assert np.all(np.diff(followed.timesteps) >= 0)
    times = followed.timesteps
    inside = (times > 0) & (times < 999)
    assert inside.sum() > 30
    there = np.interp(times, np.arange(1000), trained.flow_times)
    np.testing.assert_allclose(there[inside], levels.flow_times[inside], rtol=1e-9)
    np.testing.assert_array_equal(follow(trained, trained).timesteps, trained.timesteps)


@pytest.mark.parametrize(
    "make", [None, karras, lambda steps: log_snr(linear(1000), steps)], ids=["own", "karras", "log_snr"]
)
def test_a_strength_means_the_same_noise_whatever_the_levels(make):
    trained = linear(1000)
    for strength in (0.1, 0.4, 0.9):
        sampling = Sampling(steps=200, levels=make and make(200), strength=strength)
        last = sampling.schedule(trained).timesteps[-1]
        assert 0.9 * strength * 999 < last <= strength * 999
    assert sampling.schedule(trained).steps < Sampling(steps=200).schedule(trained).steps
