"""WDM's sampling: the estimate of x_0, single steps, and whole loops with recorded noise."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comparison import assert_close
from golden_files import GoldenFile, channels_last
from medjax.diffusion import process
from medjax.diffusion.samplers.ancestral import ancestral_step
from medjax.diffusion.samplers.ddim import ddim_step
from medjax.diffusion.schedules import Schedule, cosine, respace, respace_to
from medjax.diffusion.wavelet_domain import clamp_in_image_space, from_wavelet_domain
from spacing import spaced_timesteps
from wdm_models import network_of, network_time, params_of, schedule_of
from whole_samples import ancestral, ddim


def denoiser(golden: GoldenFile, schedule: Schedule, clip: bool):
    """The estimate of x_0, from x_t and the timesteps of the unspaced `schedule`."""
    unet = network_of(golden.config)
    params = params_of(unet, golden.config, golden.weights)

    def denoise(x_t, t):
        prediction = unet.apply({"params": params}, x_t, network_time(golden.config, t, schedule.steps))
        if not golden.config["kwargs"]["predict_xstart"]:
            prediction = process.x_0_from_noise(schedule, x_t, t, prediction)
        return clamp_in_image_space(prediction) if clip else prediction

    return jax.jit(denoise)


@pytest.mark.parametrize("clip", [True, False], ids=["clip", "noclip"])
@pytest.mark.golden("wdm_sample", "in/x", "in/t")
def test_steps(golden, clip):
    schedule = schedule_of(golden.config)
    x_t, t = channels_last(golden["in/x"]), golden["in/t"]
    x_0 = denoiser(golden, schedule, clip)(x_t, t)
    no_noise = jnp.zeros_like(x_t)  # the reference's DDIM steps were recorded without, at eta 1 too
    noise = channels_last(golden["in/p_sample_noise"]) if "in/p_sample_noise" in golden else no_noise
    mean = process.posterior_mean(schedule, x_t, t, x_0)
    direction = process.noise_from_x_0(schedule, x_t, t, x_0)
    # Each value with the weight of x_0 in it, a table, and the rounding of the reference.
    steps = {
        "p_mean_variance/clip{}/pred_xstart": (x_0, np.ones(schedule.steps), 0.0),
        "p_mean_variance/clip{}/mean": (mean, schedule.posterior_mean_coef1, 0.0),
        "p_sample/clip{}": (
            ancestral_step(schedule, x_t, t, x_0, noise),
            schedule.posterior_mean_coef1,
            0.0,
        ),
    }
    for name, eta in {"ddim_sample": 0.0, "ddim_sample_eta1": 1.0}.items():
        value = ddim_step(schedule, x_t, t, x_0, no_noise, eta)
        rounding = ddim_rounding(schedule, t, direction, eta)
        steps[name + "/clip{}"] = (value, ddim_weight(schedule, eta), rounding)
    for pattern, (value, weight, rounding) in steps.items():
        if (key := "out/" + pattern.format(int(clip))) in golden:
            error = np.maximum(1, x_0_error(golden, schedule) * weight)[t].reshape(-1, 1, 1, 1, 1)
            assert_close(value, channels_last(golden[key]), atol=2e-5 * error + rounding, name=key)

    variance = schedule.fixed_large_variance[t]
    for name, value in {"variance": variance, "log_variance": np.log(variance)}.items():
        if (key := f"out/p_mean_variance/clip{int(clip)}/{name}") in golden:
            assert_close(value, golden[key], atol=1e-9, name=key)


def x_0_error(golden: GoldenFile, schedule: Schedule) -> np.ndarray:
    """What an error of 1 in the network's output is in x_0 at each timestep: noise is divided by sqrt(alpha_bar)."""
    if golden.config["kwargs"]["predict_xstart"]:
        return np.ones(schedule.steps)
    return np.sqrt(1 / schedule.alphas_cumprod - 1)


def ddim_weight(schedule: Schedule, eta: float) -> np.ndarray:
    """The weight of the estimated x_0 in each DDIM step."""
    alpha_bar, previous = schedule.alphas_cumprod, schedule.alphas_cumprod_prev
    variance = eta**2 * (1 - previous) / (1 - alpha_bar) * (1 - alpha_bar / previous)
    return np.abs(np.sqrt(previous) - np.sqrt(np.maximum(1 - previous - variance, 0) * alpha_bar / (1 - alpha_bar)))


def ddim_rounding(schedule: Schedule, t: np.ndarray, direction: jax.Array, eta: float) -> np.ndarray:
    """How far the reference's DDIM step is from exact because its weights are made from alpha_bar rounded to float32.

    Near t = 0, 1 - alpha_bar has three digits left of it, and these inputs, which no x_0 explains, point far away. Our
    tables are made in float64, rounded last.
    """

    def weight(dtype: type) -> np.ndarray:
        tables = (np.ones_like(t), schedule.alphas_cumprod[t], schedule.alphas_cumprod_prev[t])
        one, alpha_bar, previous = (table.astype(dtype) for table in tables)
        sigma = dtype(eta) * np.sqrt((one - previous) / (one - alpha_bar)) * np.sqrt(one - alpha_bar / previous)
        return np.sqrt(np.maximum(one - previous - sigma**2, 0))

    return np.abs(weight(np.float32) - weight(np.float64)).reshape(-1, 1, 1, 1, 1) * np.abs(direction)


@pytest.mark.golden("wdm_sample", "in/ddim_steps_init", "out/ddim_steps/samples")
def test_ddim_on_a_subset_of_timesteps(golden):
    """The reference stops at its first index; ours goes on to alpha_bar = 1."""
    base = schedule_of(golden.config)
    indices = golden["out/ddim_steps/indices"][::-1]
    schedule = respace(base, golden.config["ddim_sampling_steps"])
    np.testing.assert_array_equal(schedule.timesteps[1:], indices)
    denoise = denoiser(golden, base, clip=True)
    x = channels_last(golden["in/ddim_steps_init"])
    error = x_0_error(golden, schedule) * ddim_weight(schedule, eta=0.0)
    for i, expected in zip(reversed(range(1, schedule.steps)), golden["out/ddim_steps/samples"], strict=True):
        t = jnp.full(x.shape[:1], i)
        x_0 = denoise(x, jnp.asarray(schedule.timesteps)[t])
        x = ddim_step(schedule, x, t, x_0, jnp.zeros_like(x))
        assert_close(x, channels_last(expected), atol=2e-5 * max(1, *error[i:]), name=f"step {i}")
    if "out/ddim_steps/pred_xstart_last" in golden:
        assert_close(x_0, channels_last(golden["out/ddim_steps/pred_xstart_last"]))


@pytest.mark.golden("wdm_sample", "in/")
def test_loops(golden):
    for key in golden.keys("in/"):
        if match := re.fullmatch("in/((?:loop|ddim)_.*)/init", key):
            check_loop(golden, match[1])


def check_loop(golden: GoldenFile, loop: str) -> None:
    if match := re.search(r"cosine(\d+)", loop):
        base = schedule = cosine(int(match[1]))
    else:
        base = schedule_of(golden.config)
        schedule = respace_to(base, spaced_timesteps(base.steps, golden.config["respacing"]))
    if f"out/{loop}/model_timesteps" in golden:
        np.testing.assert_array_equal(schedule.timesteps[::-1], golden[f"out/{loop}/model_timesteps"])

    denoise, seen = denoiser(golden, base, clip="noclip" not in loop), []

    def watched(x_t, t):
        x_0 = denoise(x_t, t)
        jax.debug.callback(lambda *arrays: seen.append(arrays), x_t, x_0, ordered=True)
        return x_0

    x_T = channels_last(golden[f"in/{loop}/init"])
    if f"in/{loop}/noises" in golden:
        noises = jnp.asarray(channels_last(golden[f"in/{loop}/noises"])[::-1])  # drawn for the last step first
    else:
        noises = jnp.zeros((schedule.steps, *x_T.shape))
    sample = ddim if loop.startswith("ddim") else ancestral
    x_0 = jax.block_until_ready(sample(watched, x_T, lambda i: noises[i], schedule))
    jax.effects_barrier()

    weight = ddim_weight(schedule, eta=0.0) if loop.startswith("ddim") else schedule.posterior_mean_coef1
    atol = 2e-5 * max(1, *(x_0_error(golden, schedule) * weight))
    image = from_wavelet_domain(x_0)
    volumes = {
        "samples": np.stack([*(x_t for x_t, _ in seen[1:]), x_0]),
        "pred_xstart_last": seen[-1][1],
        "idwt": image,
        "image01": (image + 1) / 2,
    }
    for name, value in volumes.items():
        if f"out/{loop}/{name}" in golden:
            assert_close(value, channels_last(golden[f"out/{loop}/{name}"]), atol=atol, name=f"{loop}/{name}")
