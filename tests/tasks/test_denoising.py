"""What a trained model may be sampled with: any prediction, schedule, number of steps and sampler, by `sample.*` alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import atlas
from medjax.codecs.haar import Haar
from medjax.diffusion import predictions, process
from medjax.diffusion.samplers.options import SAMPLERS
from medjax.diffusion.schedules import Schedule
from medjax.errors import UserError
from medjax.tasks import make_task

SIZE, DEVIATION = (16, 16, 16), 0.2
KEYS = jax.random.split(jax.random.key(0), 4)


class BestDenoiser(nn.Module):
    """Of coefficients from N(0, DEVIATION^2), said as a trained network would say it."""

    prediction: str
    schedule: Schedule

    @nn.compact
    def __call__(self, seen, t, told=None):
        schedule = self.schedule
        zero, one = jnp.zeros_like(seen), jnp.ones_like(seen)
        signal, noise = process.q_sample(schedule, one, t, zero), process.q_sample(schedule, zero, t, one)
        x_t = seen * (signal + noise) if self.prediction == "flow" else seen
        x_0 = signal * DEVIATION**2 / (signal**2 * DEVIATION**2 + noise**2) * x_t
        return predictions.target(self.prediction, schedule, x_0, t, (x_t - signal * x_0) / noise)


def trained(prediction, trained_with, **sample):
    config = atlas.get_config("tiny")
    config.data.size = SIZE
    config.diffusion.prediction, config.diffusion.schedule = prediction, trained_with
    config.diffusion.subband_scale = (1.0,) * 8
    config.sample.threshold = "none"
    config.sample.variance = "small"
    config.sample.update(sample)
    task = make_task(config)
    return dataclasses.replace(task, network=BestDenoiser(prediction, task.objective.schedule))


def draw(task):
    return np.asarray(jax.jit(lambda keys: task.sample({}, {}, {}, keys))(KEYS))


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [*((name, "trained") for name in SAMPLERS), ("dpm_solver", "karras"), ("dpm_solver", "log_snr")],
)
def test_every_prediction_samples_the_same(sampler, schedule):
    sample = {"sampler": sampler, "steps": 8, "schedule": schedule}
    x_0 = draw(trained("x_0", "vp", **sample))
    for prediction in ("noise", "v", "flow"):
        # At the start the noise says 150 times less of x_0 than it does of itself.
        np.testing.assert_allclose(draw(trained(prediction, "vp", **sample)), x_0, atol=5e-5, err_msg=prediction)


@pytest.mark.parametrize("sampled", [None, "trained", "log_snr", "linear", "cosine", "vp", "flow", "karras"])
@pytest.mark.parametrize("trained_with", ["linear", "cosine", "vp", "flow"])
def test_any_schedule_samples_a_model_of_any_other(trained_with, sampled):
    volumes = draw(trained("v", trained_with, sampler="heun", schedule=sampled, steps=100))
    np.testing.assert_allclose(volumes.std(), DEVIATION, rtol=0.03)


def test_the_same_levels_by_another_name_are_the_same_sample():
    own = draw(trained("x_0", "cosine", sampler="ddim", schedule="trained", steps=None))
    np.testing.assert_allclose(
        draw(trained("x_0", "cosine", sampler="ddim", schedule="cosine", steps=1000)), own, atol=2e-5
    )


@pytest.mark.parametrize("steps", [2, 3, 10])
@pytest.mark.parametrize("schedule", ["vp", "cosine", "flow"])
def test_models_of_few_steps_sample_all_of_them(schedule, steps):
    config = atlas.get_config("tiny")
    config.diffusion.steps, config.diffusion.schedule = steps, schedule
    config.sample.update({"sampler": "ancestral", "variance": "small", "schedule": "trained", "steps": None})
    task = make_task(config)
    assert task.steps == steps
    network = BestDenoiser("x_0", task.objective.schedule)
    task = dataclasses.replace(task, network=network, codec=Haar(SIZE, scale=(1.0,) * 8))
    np.testing.assert_allclose(draw(task).std(), expected_deviation(task.objective.schedule), rtol=0.05)


def expected_deviation(schedule):
    """Of samples that are the best estimate at the last step: each step is affine, so the variance is known."""
    alpha_bar, variance = schedule.alphas_cumprod, 1.0
    gain = np.sqrt(alpha_bar) * DEVIATION**2 / (alpha_bar * DEVIATION**2 + 1 - alpha_bar)
    for i in reversed(range(schedule.steps)):
        slope = schedule.posterior_mean_coef1[i] * gain[i] + schedule.posterior_mean_coef2[i]
        variance = slope**2 * variance + schedule.posterior_variance[i]
    return np.sqrt(variance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"diffusion.prediction": "score"}, "diffusion.prediction is 'score'"),
        ({"diffusion.times": "never"}, "diffusion.times is 'never'"),
        ({"diffusion.min_snr": -1.0}, "diffusion.min_snr is -1"),
        ({"diffusion.subband_scale": (1.0, 2.0)}, "diffusion.subband_scale is .*give 8 positive numbers"),
        ({"diffusion.subband_scale": (0.0,) * 8}, "diffusion.subband_scale"),
        ({"diffusion.prediction": "noise", "diffusion.schedule": "flow"}, "diffusion.prediction is 'noise'"),
        ({"diffusion.learned_variance": True, "diffusion.times": "continuous"}, "diffusion.learned_variance"),
        (
            {"diffusion.learned_variance": True, "diffusion.steps": 1, "diffusion.schedule": "vp"},
            "diffusion.steps is 1",
        ),
        ({"sample.schedule": "square"}, "sample.schedule is 'square'.*'log_snr'"),
        ({"diffusion.schedule": "log_snr"}, "diffusion.schedule is 'log_snr'"),
        ({"sample.steps": 1001}, "sample.steps is 1001: use 1 to diffusion.steps = 1000"),
        ({"sample.schedule": "linear", "sample.steps": 10}, "sample.steps is 10: .*at least 21"),
        ({"sample.schedule": "vp", "sample.steps": 0}, "sample.steps is 0"),
        ({"sample.steps": 0}, "sample.steps is 0: use 1 to diffusion.steps = 1000"),
        ({"sample.threshold": "hard"}, "sample.threshold is 'hard'"),
        ({"sample.variance": "medium"}, "sample.variance is 'medium'"),
        ({"sample.strength": 0.0}, "sample.strength is 0"),
        ({"sample.strength": 1.5}, "sample.strength is 1.5"),
    ],
)
def test_what_cannot_work_names_its_key(change, message):
    config = atlas.get_config("tiny")
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        make_task(config)
