"""Schedules and their derived tables in float64, whole and respaced."""

import re

import numpy as np
import pytest

from comparison import assert_close
from medjax.diffusion.schedules import Schedule, cosine, linear, respace, respace_to
from spacing import spaced_timesteps


def tables_of(schedule: Schedule) -> dict[str, np.ndarray]:
    """The schedule's tables by the reference's names."""
    alpha_bar = schedule.alphas_cumprod
    return {
        "betas": schedule.betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": schedule.alphas_cumprod_prev,
        "alphas_cumprod_next": np.append(alpha_bar[1:], 0.0),
        "sqrt_alphas_cumprod": np.sqrt(alpha_bar),
        "sqrt_one_minus_alphas_cumprod": np.sqrt(1 - alpha_bar),
        "log_one_minus_alphas_cumprod": np.log(1 - alpha_bar),
        "sqrt_recip_alphas_cumprod": np.sqrt(1 / alpha_bar),
        "sqrt_recipm1_alphas_cumprod": np.sqrt(1 / alpha_bar - 1),
        "posterior_variance": schedule.posterior_variance,
        "posterior_log_variance_clipped": schedule.posterior_log_variance_clipped,
        "posterior_mean_coef1": schedule.posterior_mean_coef1,
        "posterior_mean_coef2": schedule.posterior_mean_coef2,
        "fixed_large_variance": schedule.fixed_large_variance,
        "fixed_large_log_variance": np.log(schedule.fixed_large_variance),
        "timestep_map": schedule.timesteps,
    }


@pytest.mark.golden("diffusion_tables")
def test_tables(golden):
    keys = [key for key in golden.keys("out/") if not key.startswith("out/space_timesteps/")]
    for key in keys:
        name, table = key.removeprefix("out/").rsplit("/", 1)
        kind, steps, respacing = re.fullmatch(r"(linear|cosine)_(\d+)(?:_respaced_(.+))?", name).groups()
        schedule = {"linear": linear, "cosine": cosine}[kind](int(steps))
        if respacing and respacing.isdigit():
            schedule = respace(schedule, int(respacing))
        elif respacing:
            schedule = respace_to(schedule, spaced_timesteps(int(steps), respacing))
        assert_close(tables_of(schedule)[table], golden[key], atol=1e-12, rtol=1e-9, name=key)


@pytest.mark.golden("diffusion_tables", "out/space_timesteps/")
def test_spaced_timesteps(golden):
    for key in golden.keys("out/space_timesteps/"):
        total, respacing = key.removeprefix("out/space_timesteps/").split("/")
        np.testing.assert_array_equal(spaced_timesteps(int(total), respacing), golden[key], err_msg=key)
