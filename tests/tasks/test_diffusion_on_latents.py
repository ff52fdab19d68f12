"""Latent diffusion over a VQ-GAN of plain arithmetic, so that what comes of it is known; the real one at the end."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import medical_diffusion
from medjax.codecs.latents import scaled, unscaled
from medjax.diffusion.guidance import guided
from medjax.errors import UserError
from medjax.models.factorized_unet import FactorizedUNet
from medjax.models.unet import UNet
from medjax.tasks import make_task
from tolerance import assert_equal_but_for_rounding

SIZE, CHANNELS = (8, 8, 16), 4
STEP = jnp.zeros((), jnp.int32)
KEYS = jax.random.split(jax.random.key(7), 4)
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, *SIZE, 1)), jnp.float32)
BATCH = {"image": IMAGE, "row": jnp.arange(4), "class": jnp.array([0, 1, 2, -1])}
FROZEN = {
    "vqgan": {"generator": jnp.float32(3.0), "codebook": {"embeddings": jnp.array([[-2.0, 0.5, 1, 0], [4, 1, 0, 2]])}},
    "low": -3.0,
    "high": 5.0,
}


class Means:
    """Means of 2 x 2 x 2 voxels times a number, in every channel; quantised to tenths."""

    def encode(self, frozen, volumes):
        b, d, h, w, _ = volumes.shape
        means = volumes.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2, 1).mean(axis=(2, 4, 6))
        return frozen["generator"] * jnp.broadcast_to(means, (b, d // 2, h // 2, w // 2, CHANNELS))

    def decode_latents(self, frozen, latents):
        return self.decode(frozen, jnp.round(latents * 10) / 10)

    def decode(self, frozen, latents):
        volumes = latents.mean(axis=-1, keepdims=True) / frozen["generator"]
        for axis in (1, 2, 3):
            volumes = jnp.repeat(volumes, 2, axis=axis)
        return volumes


class OneLayer(nn.Module):
    """From the latents, the time and the label at each voxel; a label is a number."""

    features: int

    @nn.compact
    def __call__(self, x_t, t, told=None, train=False):
        label = (told or {}).get("class", jnp.zeros_like(t))
        told = [jnp.broadcast_to(a.reshape(-1, 1, 1, 1, 1), (*x_t.shape[:-1], 1)) for a in (t / 300, label)]
        return nn.Dense(self.features, name="head")(jnp.concatenate([x_t, *told], axis=-1))


def configuration(stage="ddpm", **changes):
    config = medical_diffusion.get_config(f"tiny,{stage}")
    config.data.size = SIZE
    config.sample.steps = 4
    config.update_from_flattened_dict(changes)
    return config


def vqgan_configuration():
    return configuration("vqgan", **{"model.downsample": (2, 2, 2), "model.embedding_channels": CHANNELS})


def task_of(**changes):
    task = make_task(configuration(**changes), vqgan_configuration())
    return dataclasses.replace(task, network=OneLayer(task.network.out_channels), codec=over_means(task.codec))


def over_means(codec):
    return dataclasses.replace(codec, autoencoder=Means())


def started(task):
    params, variables = task.init(jax.random.key(0), {})
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    return jax.tree.map(lambda leaf: leaf + 0.05 * jax.random.normal(next(keys), leaf.shape), params), variables


def gradients(task, params, batch):
    return jax.jit(task.gradients)(params, {}, FROZEN, batch, jax.random.key(2), STEP)


def test_low_and_high_become_minus_1_and_1():
    np.testing.assert_allclose(scaled(jnp.array([-3.0, 1, 5]), -3.0, 5.0), [-1, 0, 1])
    low, high = jnp.array([-1.0, 0]), jnp.array([1.0, 10])
    np.testing.assert_allclose(scaled(jnp.array([[0.5, 5.0]]), low, high), [[0.5, 0]])
    assert_equal_but_for_rounding(unscaled(scaled(IMAGE, -2.0, 7.0), -2.0, 7.0), IMAGE)


def test_the_codebook_ranges_from_its_least_to_its_greatest_number():
    low, high = task_of().codec.codebook_range(FROZEN["vqgan"]["codebook"])
    np.testing.assert_array_equal([low, high], [[-2] * CHANNELS, [4] * CHANNELS])


def test_prepared_latents_teach_as_volumes_do():
    task = task_of()
    params, _ = started(task)
    latents = {"latents": Means().encode(FROZEN["vqgan"], IMAGE), "row": BATCH["row"]}
    (from_volumes, _, a), (from_latents, _, b) = (gradients(task, params, each) for each in (BATCH, latents))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), from_volumes, from_latents)
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-6)
    assert set(a) == {"loss", *(f"loss/quarter_{q}" for q in (1, 2, 3, 4))}


@pytest.mark.parametrize(("loss", "expected"), [("l1", np.sqrt(2 / np.pi)), ("mse", 1.0)])
def test_the_loss_of_silence_is_that_of_noise(loss, expected):
    task = task_of(**{"diffusion.loss": loss})
    params, _ = task.init(jax.random.key(0), {})
    silent = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_allclose(gradients(task, silent, BATCH)[2]["loss"], expected, rtol=0.05)


def test_an_example_is_keyed_by_its_row():
    task = task_of(**{"model.classes": 3, "model.label_dropout": 0.5})
    params, _ = started(task)

    def grads(rows):
        return gradients(task, params, {name: values[rows] for name, values in BATCH.items()})[0]

    whole = grads(np.array([0, 1, 2, 3]))
    halves = jax.tree.map(lambda a, b: (a + b) / 2, grads(np.array([3, 1])), grads(np.array([0, 2])))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, halves)


@pytest.mark.parametrize(("dropout", "same"), [(0.0, False), (1.0, True)])
def test_labels_are_withheld(dropout, same):
    task = task_of(**{"model.classes": 3, "model.label_dropout": dropout})
    params, _ = started(task)
    told = gradients(task, params, BATCH)[2]["loss"]
    unknown = gradients(task, params, BATCH | {"class": jnp.full(4, -1)})[2]["loss"]
    assert (told == unknown) == same
    assert gradients(task, params, {name: BATCH[name] for name in ("image", "row")})[2]["loss"] == unknown


def test_validation_is_fixed_and_by_volume():
    task = task_of(**{"model.classes": 3})
    params, _ = started(task)
    validate = jax.jit(lambda batch: task.validate(params, {}, FROZEN, batch, jax.random.key(0)))
    whole, part = validate(BATCH), validate({name: values[2:] for name, values in BATCH.items()})
    np.testing.assert_allclose(part["val_loss"], whole["val_loss"][2:], rtol=1e-5)
    quarters = np.stack([whole[f"val_loss/quarter_{quarter}"] for quarter in (1, 2, 3, 4)])
    np.testing.assert_allclose(quarters.mean(axis=0), whole["val_loss"], rtol=1e-5)


def test_previews_are_volumes():
    task = task_of()
    previews = task.previews(started(task)[0], {}, FROZEN, BATCH, jax.random.key(0))
    assert {volume.shape for volume in previews.values()} == {(4, *SIZE, 1)}
    assert list(previews) == ["reconstructed", *(f"denoised_from_{quarter}_of_4" for quarter in (1, 2, 3))]
    means = Means().decode(FROZEN["vqgan"], Means().encode(FROZEN["vqgan"], IMAGE))
    np.testing.assert_allclose(previews["reconstructed"], means, atol=0.05 / 3 + 1e-5)


@pytest.mark.parametrize(("sampler", "guidance"), [("ancestral", 1.0), ("dpm_solver", 1.0), ("heun", 3.0)])
def test_a_sample_depends_on_its_key_and_label_alone(sampler, guidance):
    label = {"sample.label": 2, "sample.guidance": guidance}
    task = task_of(**{"sample.sampler": sampler, "model.classes": 3} | label)
    params, _ = started(task)
    draw = jax.jit(lambda keys, label: task.sample(params, {}, FROZEN, keys, {"class": label}))
    together = draw(KEYS, jnp.array([0, 1, 2, 2]))
    assert together.shape == (4, *SIZE, 1)
    assert np.abs(together).max() <= 1
    assert np.abs(together[2] - together[3]).max() > 0.01
    np.testing.assert_allclose(draw(KEYS[2:3], jnp.array([2])), together[2:3], atol=1e-5)


def test_guidance_goes_on_from_no_label_through_the_label():
    params, x_t, t = started(task_of())[0], jnp.ones((4, 4, 4, 8, CHANNELS)), jnp.full(4, 100)
    task = task_of(**{"model.classes": 3, "sample.label": 1, "sample.guidance": 2.5})
    label = jnp.array([0, 1, 2, -1])
    predict = task._predict(params)
    unknown_of = lambda x: {"class": jnp.full(len(x), -1)}  # noqa: E731
    moved, _ = guided(predict, unknown_of, 2.5, lambda x: x)(x_t, t, {"class": label})
    told, unknown = (
        task.network.apply({"params": params}, x_t, t, {"class": each}) for each in (label, -jnp.ones_like(label))
    )
    np.testing.assert_allclose(moved, unknown + 2.5 * (told - unknown), rtol=1e-5, atol=1e-6)
    free, _ = predict(x_t, t, {"class": label})
    np.testing.assert_allclose(free, told, rtol=1e-6)


def test_without_a_label_anything_is_drawn():
    task = task_of(**{"model.classes": 3})
    params, _ = started(task)
    anything = task.sample(params, {}, FROZEN, KEYS)
    unknown = task.sample(params, {}, FROZEN, KEYS, {"class": jnp.full(4, -1)})
    np.testing.assert_array_equal(anything, unknown)
    assert np.abs(task.sample(params, {}, FROZEN, KEYS, {"class": jnp.full(4, 2)}) - unknown).max() > 0.01


def test_from_a_volume_and_between_two():
    steps = {"diffusion.steps": 50, "sample.steps": 50, "sample.schedule": "trained"}
    task = task_of(**steps, **{"sample.start": "x", "sample.strength": 0.02})
    assert task.steps == 1
    latents = scaled(Means().encode(FROZEN["vqgan"], IMAGE), -3.0, 5.0)
    np.testing.assert_allclose(task.begin(FROZEN, KEYS, start={"image": IMAGE}).solver.x_t, latents, atol=0.4)
    task = task_of(**steps, **{"sample.start": "x,y", "sample.strength": 0.5})
    a, b = (jnp.broadcast_to(volume[None], IMAGE.shape) for volume in IMAGE[:2])
    shares = jnp.array([0.0, 1 / 3, 2 / 3, 1.0])
    same = jnp.broadcast_to(KEYS[:1], (4,))
    there = task.begin(FROZEN, same, start={"image": a, "other": b, "share": shares}).solver.x_t
    np.testing.assert_allclose(there[0], task.begin(FROZEN, same, start={"image": a}).solver.x_t[0], atol=2e-5)
    assert np.abs(there[3] - there[0]).mean() > 0.5


@pytest.mark.parametrize("threshold", ["clamp", "dynamic", "none"])
def test_estimates_are_kept_in_range_on_the_way(threshold):
    task = task_of(**{"sample.threshold": threshold})
    estimate = task._thresholded(3 * jax.random.normal(KEYS[0], (2, 4, 4, 8, CHANNELS)))
    assert (np.abs(estimate).max() <= 1) == (threshold != "none")
    assert (np.mean(np.abs(estimate) == 1) < 0.15) == (threshold != "clamp")


def test_what_is_drawn_is_unscaled_quantised_decoded_and_clipped():
    task = task_of()
    state = task.begin(FROZEN, KEYS)
    x_0 = jnp.linspace(-2, 2, 4).reshape(-1, 1, 1, 1, 1) * jnp.ones_like(state.solver.x_t)
    volumes = task.finish(FROZEN, state._replace(solver=state.solver._replace(x_t=x_0)))
    unscaled_ = (np.linspace(-2, 2, 4) + 1) / 2 * 8 - 3
    expected = np.clip(np.round(unscaled_ * 10) / 10 / 3, -1, 1)
    np.testing.assert_allclose(volumes[:, 0, 0, 0, 0], expected, atol=1e-5)


def test_tiles_are_the_vqgans():
    task = make_task(configuration(**{"latents.tile": (8, 8, 16)}), vqgan_configuration())
    assert task.latents.autoencoder.tile == (8, 8, 16)


def test_networks_and_sizes():
    task = make_task(configuration(**{"model.classes": 5}), vqgan_configuration())
    assert (type(task.network), task.network.conditions[0].classes, task.network.out_channels) == (
        FactorizedUNet,
        5,
        CHANNELS,
    )
    assert (task.size_multiple, task.codec.shape[:3]) == ((2, 4, 4), (4, 4, 8))
    plain = make_task(configuration("ddpm,unet", **{"model.classes": 2}), vqgan_configuration())
    assert (type(plain.network), plain.network.conditions[0].classes, plain.size_multiple) == (UNet, 2, (4, 4, 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.network": "wavelet_unet"}, "model.network is 'wavelet_unet': use 'factorized_unet' or 'unet'"),
        ({"sample.threshold": "hard"}, "sample.threshold is 'hard'"),
        ({"sample.label": 0}, "sample.label is 0, where model.classes is 0: leave it out"),
        ({"sample.label": 3, "model.classes": 3}, "sample.label is 3, where model.classes is 3: use 0 to 2"),
        ({"sample.guidance": 2.0, "model.classes": 3}, "sample.guidance is 2.0, towards no label"),
        ({"model.classes": -1}, "model.classes is -1"),
        ({"model.label_dropout": 1.5}, "model.label_dropout is 1.5"),
        ({"diffusion.loss": "l3"}, "diffusion.loss is 'l3'"),
        ({"diffusion.min_snr": 5.0}, "diffusion.min_snr weighs squared errors"),
        ({"model.spatial_attention": "full"}, "model.spatial_attention is 'full'"),
        ({"model.first_kernel": 4}, "model.first_kernel is 4"),
        ({"model.groups": 3}, "model.groups is 3"),
        ({"latents.tile": (8, 8, 3)}, "latents.tile is .*8, 8, 3.: give multiples of .*2, 2, 2"),
        ({"model.attention_head_channels": 7}, "model.attention_head_channels is 7"),
    ],
)
def test_what_cannot_work_names_its_key(change, message):
    with pytest.raises(UserError, match=message):
        make_task(configuration(**change), vqgan_configuration())


def test_over_a_real_vqgan():
    task = make_task(configuration(), vqgan_configuration())
    vqgan, variables = jax.eval_shape(task.latents.autoencoder.init, jax.random.key(0), BATCH)
    low, high = jax.eval_shape(task.codec.codebook_range, variables["codebook"])
    frozen = {"vqgan": {"generator": vqgan["generator"], "codebook": variables["codebook"]}, "low": low, "high": high}
    params, _ = jax.eval_shape(task.init, jax.random.key(1), BATCH)
    grads, _, _ = jax.eval_shape(task.gradients, params, {}, frozen, BATCH, KEYS[0], STEP)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert jax.eval_shape(task.sample, params, {}, frozen, KEYS).shape == (4, *SIZE, 1)
