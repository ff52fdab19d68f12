import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import atlas
from medjax.diffusion.wavelet_domain import to_wavelet_domain
from medjax.errors import UserError
from medjax.tasks import make_task

SIZE = (8, 12, 16)


def small_config():
    config = atlas.get_config("tiny")
    config.data.size = SIZE
    config.model.base_channels = 4
    config.model.groups = 2
    config.sample.steps = 5
    return config


@pytest.fixture(scope="module")
def task():
    return make_task(small_config())


def gradients(task):
    """Gradients and metrics of a batch, compiled."""
    zero = jnp.zeros((), jnp.int32)

    def of_batch(params, batch):
        grads, _, metrics = task.gradients(params, {}, {}, batch, jax.random.key(2), zero)
        return grads, metrics

    return jax.jit(of_batch)


@pytest.fixture(scope="module")
def small_gradients(task):
    return gradients(task)


@pytest.fixture(scope="module")
def batch():
    image = np.random.default_rng(0).uniform(-1, 1, (4, *SIZE, 1)).astype(np.float32)
    return {"image": jnp.asarray(image), "row": jnp.arange(4)}


@pytest.fixture(scope="module")
def params(task, batch):
    """Every parameter moved off its initial value, so that the head is not zero."""
    params, variables = task.init(jax.random.key(0), batch)
    assert variables == {}
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(next(keys), leaf.shape), params)


def test_an_untrained_network_predicts_zero(task, small_gradients, batch):
    params, _ = task.init(jax.random.key(0), batch)
    _, metrics = small_gradients(params, batch)
    np.testing.assert_allclose(metrics["loss"], jnp.mean(to_wavelet_domain(batch["image"]) ** 2), rtol=1e-6)


def test_details_add_up_to_the_loss(small_gradients, params, batch):
    _, metrics = small_gradients(params, batch)
    bands = [value for name, value in metrics.items() if name.removeprefix("loss/") in {"LLL", "LLH", "HHH"}]
    assert len(bands) == 3
    subbands = [v for n, v in metrics.items() if n.startswith("loss/") and "quarter" not in n]
    np.testing.assert_allclose(np.mean(subbands), metrics["loss"], rtol=1e-5)


def test_an_example_is_keyed_by_its_row(small_gradients, params, batch):
    def grads(rows):
        return small_gradients(params, {name: values[rows] for name, values in batch.items()})[0]

    whole = grads(np.array([0, 1, 2, 3]))
    halves = jax.tree.map(lambda a, b: (a + b) / 2, grads(np.array([3, 1])), grads(np.array([0, 2])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, halves)


def test_times_cover_the_schedule(small_gradients, params, batch):
    rows = {"image": jnp.repeat(batch["image"][:1], 64, axis=0), "row": jnp.arange(64)}
    _, metrics = small_gradients(params, rows)
    assert all(np.isfinite(metrics[f"loss/quarter_{quarter}"]) for quarter in (1, 2, 3, 4))


def test_validation_is_fixed_and_by_volume(task, params, batch):
    whole = task.validate(params, {}, {}, batch, jax.random.key(0))
    part = task.validate(params, {}, {}, {name: values[2:] for name, values in batch.items()}, jax.random.key(0))
    np.testing.assert_allclose(part["val_loss"], whole["val_loss"][2:], rtol=1e-5)
    quarters = np.stack([whole[f"val_loss/quarter_{quarter}"] for quarter in (1, 2, 3, 4)])
    np.testing.assert_allclose(quarters.mean(axis=0), whole["val_loss"], rtol=1e-5)


def test_previews_are_volumes(task, params, batch):
    previews = task.previews(params, {}, {}, batch, jax.random.key(0))
    assert {name: volume.shape for name, volume in previews.items()} == {
        f"denoised_from_{quarter}_of_4": (4, *SIZE, 1) for quarter in (1, 2, 3)
    }


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 1.0), ("ancestral", 0.0)])
def test_a_sample_depends_on_its_key_alone(task, params, sampler, eta):
    task = dataclasses.replace(task, sampling=dataclasses.replace(task.sampling, sampler=sampler, eta=eta))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(7), i))(jnp.arange(8))
    draw = jax.jit(lambda keys: task.sample(params, {}, {}, keys))
    together = np.asarray(draw(keys))
    assert together.shape == (8, *SIZE, 1)
    assert np.abs(together).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 0.1
    for size in (1, 4):
        parts = [np.asarray(draw(keys[start : start + size])) for start in range(0, 8, size)]
        np.testing.assert_allclose(np.concatenate(parts), together, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample.sampler": "magic"}, "sample.sampler is 'magic'"),
        ({"sample.steps": 2000}, "sample.steps is 2000"),
        ({"diffusion.steps": 20}, "diffusion.steps is 20"),
        ({"diffusion.schedule": "square"}, "diffusion.schedule is 'square'"),
        ({"model.groups": 3}, "model.groups is 3"),
        ({"model.skip": "none"}, "model.skip is 'none'"),
        ({"train.dtype": "float16"}, "train.dtype is 'float16'"),
        ({"train.remat": "None"}, "train.remat is 'None': use 'none', 'blocks'"),
        ({"train.remat": "all"}, "train.remat is 'all'"),
        ({"train.remat": "above:"}, "train.remat is 'above:'"),
        ({"train.lowering": "fft"}, "train.lowering is 'fft'"),
        ({"model.network": "vit"}, "model.network is 'vit'"),
        ({"task": "poetry"}, "task is 'poetry'"),
    ],
)
def test_what_cannot_work_names_its_key(change, message):
    config = small_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        make_task(config)


def test_remat_above_an_edge_is_of_the_larger_levels():
    config = small_config()
    config.data.size = (32, 64, 32)  # the network sees 16 x 32 x 16
    config.model.channel_multipliers = (1, 1, 1)
    config.train.remat = "above:16"
    assert make_task(config).network.remat == (True, False, False)
    config.train.remat = "above:15"
    assert make_task(config).network.remat == (True, True, False)


def test_bfloat16_computes_the_same_to_its_precision(small_gradients, params, batch):
    config = small_config()
    config.train.dtype = "bfloat16"
    config.train.remat = "blocks"
    grads, metrics = gradients(make_task(config))(params, batch)
    _, exact = small_gradients(params, batch)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(metrics["loss"], exact["loss"], rtol=2e-2)
    assert metrics["loss"] != exact["loss"]


@pytest.mark.parametrize(("variant", "count"), [("128", 57_914_824), ("256", 83_158_728)])
def test_published_sizes(variant, count):
    from configs import brats

    config = brats.get_config(variant)
    task = make_task(config)
    image = jax.ShapeDtypeStruct((1, *config.data.size, 1), jnp.float32)
    params, _ = jax.eval_shape(task.init, jax.random.key(0), {"image": image})
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("part", "key", "value", "told"),
    [
        ("sample", "label", 1, "sample.label is 1, where model.classes is 0: leave it out"),
        ("sample", "guidance", 3.0, "sample.guidance is 3.0, towards no label: this model knows none"),
    ],
)
def test_labels_are_refused_where_none_are_learned(part, key, value, told):
    config = small_config()
    with config.unlocked():
        config[part][key] = value
    with pytest.raises(UserError, match=told):
        make_task(config)
