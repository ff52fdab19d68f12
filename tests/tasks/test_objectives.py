"""Training with each objective, and sampling from given volumes, with a network of one layer."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import atlas, brats
from medjax.diffusion.interpolation import lerp
from medjax.diffusion.samplers.options import SAMPLERS
from medjax.diffusion.wavelet_domain import to_wavelet_domain
from medjax.tasks import make_task

SIZE = (8, 8, 8)
STEP = jnp.zeros((), jnp.int32)
BATCH = {
    "image": jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, *SIZE, 1)), jnp.float32),
    "row": jnp.arange(4),
}


class OneLayer(nn.Module):
    """From the coefficients and the time at each voxel; zero at first, as the head of the U-Net is."""

    features: int

    @nn.compact
    def __call__(self, x_t, t, told=None, train=False):
        time = jnp.broadcast_to(t.reshape(-1, 1, 1, 1, 1) / 1000, (*x_t.shape[:-1], 1))
        head = nn.Dense(self.features, kernel_init=nn.initializers.zeros, name="head")
        return head(jnp.concatenate([x_t, time], axis=-1))


def task_of(**changes):
    config = atlas.get_config("tiny")
    config.data.size = SIZE
    config.sample.steps = 4
    config.update_from_flattened_dict(changes)
    task = make_task(config)
    return dataclasses.replace(task, network=OneLayer(16 if task.objective.learned_variance else 8))


def started(task):
    """Parameters off their initial values, so that the head is not zero."""
    params, variables = task.init(jax.random.key(0), BATCH)
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(next(keys), leaf.shape), params), variables


def gradients(task, params, variables):
    return jax.jit(lambda p, v: task.gradients(p, v, {}, BATCH, jax.random.key(2), STEP))(params, variables)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("noise", 1.0),  # of an untrained network, which says zero: the target's mean square
        ("flow", 1.0 + float(jnp.mean(to_wavelet_domain(BATCH["image"]) ** 2))),
    ],
)
def test_an_untrained_network_errs_by_its_target(prediction, expected):
    task = task_of(**{"diffusion.prediction": prediction})
    params, variables = task.init(jax.random.key(0), BATCH)
    _, _, metrics = gradients(task, params, variables)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=0.1)


def test_v_is_as_large_as_what_it_mixes():
    task = task_of(**{"diffusion.prediction": "v"})
    params, variables = task.init(jax.random.key(0), BATCH)
    _, _, metrics = gradients(task, params, variables)
    assert jnp.mean(to_wavelet_domain(BATCH["image"]) ** 2) < metrics["loss"] < 1.1


def test_min_snr_scales_each_example():
    plain, weighing = task_of(), task_of(**{"diffusion.min_snr": 5.0})
    params, variables = started(plain)
    (_, _, alike), (_, _, weighed) = (gradients(task, params, variables) for task in (plain, weighing))
    np.testing.assert_allclose(alike["loss/LLL"], weighed["loss/LLL"], rtol=1e-5)  # reported unweighted
    t, _ = plain.objective.draw_times({}, jax.random.split(jax.random.key(2), 3)[0], BATCH["row"])
    alpha_bar = plain.objective.schedule.alphas_cumprod[t]
    largest = np.minimum(alpha_bar / (1 - alpha_bar), 5).max()
    assert 0 < weighed["loss"] <= alike["loss"] * largest * 1.001
    assert weighed["loss"] != alike["loss"]


def test_importance_sampling_remembers_losses():
    task = task_of(**{"diffusion.times": "importance", "diffusion.steps": 30})
    params, variables = started(task)
    assert variables["losses"].shape == (30, 10)
    t, weights = task.objective.draw_times(variables, jax.random.split(jax.random.key(2), 3)[0], BATCH["row"])
    np.testing.assert_allclose(weights, 1, rtol=1e-6)
    _, after, metrics = gradients(task, params, variables)
    np.testing.assert_array_equal(np.bincount(t, minlength=30), after["count"])
    np.testing.assert_allclose(after["losses"].sum() / 4, metrics["loss"], rtol=1e-5)


def test_times_between_steps():
    task = task_of(**{"diffusion.times": "continuous", "diffusion.schedule": "flow", "diffusion.prediction": "flow"})
    grads, variables, metrics = gradients(task, *started(task))
    assert variables == {}
    assert np.isfinite(metrics["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_learned_variances_are_taught_by_the_bound_alone():
    task = task_of(**{"diffusion.learned_variance": True, "sample.sampler": "ancestral"})
    params, variables = started(task)
    assert params["head"]["kernel"].shape[-1] == 16
    grads, _, metrics = gradients(task, params, variables)
    head = np.abs(grads["head"]["bias"])
    assert head[:8].min() > 0
    assert head[8:].min() > 0
    squared = np.mean([value for name, value in metrics.items() if name.startswith("loss/") and "quarter" not in name])
    assert metrics["loss"] != squared
    keys = jax.random.split(jax.random.key(3), 2)
    for sampler in ("ancestral", "dpm_solver"):
        chosen = dataclasses.replace(task, sampling=dataclasses.replace(task.sampling, sampler=sampler))
        volumes = jax.jit(lambda keys, task=chosen: task.sample(params, {}, {}, keys))(keys)
        assert volumes.shape == (2, *SIZE, 1)
        assert np.isfinite(volumes).all()


def test_the_scale_of_the_subbands_is_what_the_network_sees():
    task = task_of(**{"diffusion.subband_scale": (2.0,) * 8})
    params, _ = task.init(jax.random.key(0), BATCH)
    _, _, metrics = gradients(task, params, {})
    np.testing.assert_allclose(metrics["loss"], jnp.mean(to_wavelet_domain(BATCH["image"], (2.0,) * 8) ** 2), rtol=1e-5)


@pytest.mark.parametrize("variant", ["fewstep", "flow"])
def test_variants_make_tasks(variant):
    task = make_task(brats.get_config(f"tiny,{variant}"))
    assert task.steps == {"fewstep": 2, "flow": 25}[variant]


KEYS = jax.random.split(jax.random.key(7), 4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_depends_on_its_key_alone(sampler):
    task = task_of(**{"sample.sampler": sampler, "sample.schedule": "trained"})
    params, _ = started(task)
    draw = jax.jit(lambda keys: task.sample(params, {}, {}, keys))
    together = draw(KEYS)
    assert np.abs(together[0] - together[1]).max() > 0.1
    np.testing.assert_allclose(draw(KEYS[2:3]), together[2:3], atol=1e-5)


def test_little_noise_changes_little():
    steps = {"diffusion.steps": 50, "sample.steps": 50, "sample.schedule": "trained", "sample.start": "x"}
    task = task_of(**steps, **{"sample.strength": 0.02})
    assert task.steps == 1
    image = BATCH["image"]
    state = task.begin({}, KEYS, start={"image": image})
    np.testing.assert_allclose(state.solver.x_t, to_wavelet_domain(image), atol=0.4)
    all_of_it = task_of(**steps, **{"sample.strength": 1.0})
    assert all_of_it.steps == 50
    state = all_of_it.begin({}, KEYS, start={"image": image})
    assert np.abs(state.solver.x_t - all_of_it.begin({}, KEYS).solver.x_t).max() < 0.1  # nothing of the volume is left


def test_between_two_volumes():
    task = task_of(**{"diffusion.steps": 50, "sample.steps": 50, "sample.start": "x,y", "sample.strength": 0.5})
    same = jnp.broadcast_to(KEYS[:1], (4,))
    a, b = (jnp.broadcast_to(volume[None], (4, *SIZE, 1)) for volume in BATCH["image"][:2])
    shares = jnp.array([0.0, 1 / 3, 2 / 3, 1.0])
    there = task.begin({}, same, start={"image": a, "other": b, "share": shares}).solver.x_t
    np.testing.assert_allclose(there[0], task.begin({}, same, start={"image": a}).solver.x_t[0], atol=2e-5)
    steps = jnp.abs(there[1:] - there[:-1]).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.1)
    level = task.sampling.schedule(task.objective.schedule).alphas_cumprod[-1]
    x_0 = to_wavelet_domain(lerp(a, b, shares))
    spread = (there - np.sqrt(level) * x_0).std(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(spread, np.sqrt(1 - level), rtol=0.15)
