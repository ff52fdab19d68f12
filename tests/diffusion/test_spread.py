"""How wide samples are for Gaussian data of known width, exactly (benchmarks/sampling_spread.py): 1 is right."""

import numpy as np
import pytest

from benchmarks.sampling_spread import exact, sampling_of, spread
from configs.common import base
from medjax.diffusion.samplers.options import SAMPLERS, Sampling
from medjax.diffusion.schedules import vp
from medjax.tasks.diffusion_choices import make_sampling, make_schedule

TRAINED = ["linear", "cosine", "vp", "flow"]
FIRST_ORDER = ("ancestral", "ddim", "euler")
# First order loses spread with every step; heun, of half as many and so twice as long steps, keeps a trace of the noise.
BOUNDS = {
    "ancestral": (0.83, 0.88),
    "ddim": (0.90, 0.94),
    "euler": (0.90, 0.94),
    "dpm_solver": (0.99, 1.015),
    "dpm_solver_sde": (0.98, 1.025),
    "heun": (0.99, 1.08),
}


@pytest.mark.parametrize("name", TRAINED)
def test_by_default_samples_are_as_wide_as_the_data_and_details_as_the_least_noise_allows(name):
    """Data of deviation 0.02 are finer than the noise that training ends at, of which the best estimate loses some."""
    trained = make_schedule(name, 1000)
    sampling = make_sampling(base().sample, trained)
    assert (sampling.sampler, sampling.schedule(trained).steps) == ("dpm_solver", 25)
    found = spread(sampling, trained)
    np.testing.assert_allclose(found, exact(trained), rtol=0.015)
    np.testing.assert_allclose(found[1:], 1, rtol=0.015)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_of_every_sampler_by_25_evaluations(sampler):
    trained = make_schedule("linear", 1000)
    steps = 13 if sampler == "heun" else 25
    found = spread(sampling_of(sampler, steps, "log_snr", trained), trained) / exact(trained)
    low, high = BOUNDS[sampler]
    assert np.all((found > low) & (found < high)), found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_of_every_sampler_by_all_steps_of_training(sampler):
    """On the trained levels first order still loses up to a tenth of the finest detail."""
    trained = make_schedule("linear", 1000)
    found = spread(sampling_of(sampler, 1000, "trained", trained), trained) / exact(trained)
    np.testing.assert_allclose(found[1:], 1, rtol=0.035)
    np.testing.assert_allclose(found[0], 1, rtol=0.09 if sampler in FIRST_ORDER else 0.02)


@pytest.mark.parametrize("sampler", ["dpm_solver", "dpm_solver_sde"])
@pytest.mark.parametrize("name", TRAINED)
def test_even_in_log_snr_is_nearer_than_the_same_number_of_trained_or_karras_levels(name, sampler):
    trained = make_schedule(name, 1000)
    off = {
        levels: np.abs(spread(sampling_of(sampler, 25, levels, trained), trained) / exact(trained) - 1).max()
        for levels in ("log_snr", "trained", "karras")
    }
    assert off["log_snr"] < min(off["trained"], off["karras"]) / 2, off


def test_of_a_single_step_is_that_of_the_best_estimate_from_nothing_but_noise():
    trained = vp(2)
    signal_2 = trained.alphas_cumprod[-1]
    gain = np.sqrt(signal_2) * 0.25 / (signal_2 * 0.25 + 1 - signal_2)
    np.testing.assert_allclose(spread(Sampling("ddim", steps=1), trained, (0.5,)), gain / 0.5, rtol=1e-6)
