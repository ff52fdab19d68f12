"""The autoencoder with the KL bottleneck, its discriminators left out: these do not know what lies between the networks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.runtime.mesh import AXES, batch_sharding, make_mesh, on_mesh
from medjax.runtime.sharding import state_shardings
from medjax.tasks.autoencoder import Autoencoder
from medjax.tasks.bottlenecks.kl import KL
from test_autoencoder import configuration
from tolerance import assert_equal_but_for_rounding

SIZE, BATCH = (16, 16, 8), 4
CHANGES = {"model.bottleneck": "kl", "model.kl_weight": 0.01, "model.downsample": (2, 2, 2)}
KEY, STEP = jax.random.key(1), jnp.int32(0)


@pytest.fixture(scope="module")
def task() -> Autoencoder:
    task = Autoencoder.from_config(configuration(**CHANGES))
    return dataclasses.replace(task, adversary=dataclasses.replace(task.adversary, image=0.0, volume=0.0))


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).uniform(-1, 1, (BATCH, *SIZE, 1)).astype("f4")
    return {"image": image, "row": np.arange(BATCH, dtype=np.int32)}


@pytest.fixture(scope="module")
def state(task, batch):
    return jax.device_get(jax.jit(task.init)(jax.random.key(0), batch))


@pytest.fixture(scope="module")
def gradients(task):
    return jax.jit(task.gradients)


def test_the_encoder_gives_two_numbers_for_each_of_a_latent_and_there_is_no_codebook(task, state):
    params, variables = state
    assert task.bottleneck == KL(channels=4, weight=0.01)
    assert params["generator"]["encoder"]["latent_conv"]["kernel"].shape[-1] == 8
    assert params["generator"]["decoder"]["latent_conv"]["kernel"].shape[-2] == 4
    assert (task.latent_channels, task.latent_size) == (4, (8, 8, 4))
    assert variables.keys() == {"batch_stats"}


def test_a_batch_teaches_what_its_halves_teach_by_their_rows(state, batch, gradients):
    def found(rows):
        grads, _, metrics = gradients(*state, {}, {name: values[rows] for name, values in batch.items()}, KEY, STEP)
        return grads["generator"], metrics["loss"]

    whole = found([0, 1, 2, 3])
    halves = jax.tree.map(lambda a, b: (a + b) / 2, found([3, 1]), found([0, 2]))
    assert_equal_but_for_rounding(whole, halves)


def test_a_mesh_teaches_what_one_device_teaches(task, state, batch, gradients):
    mesh = make_mesh(dict.fromkeys(AXES, 1) | {"data": 2, "depth": 2, "height": 2})
    there = jax.device_put(batch, {name: batch_sharding(mesh, array) for name, array in batch.items()})
    placed = jax.device_put(state, state_shardings(state, mesh))
    found, _, metrics = jax.jit(on_mesh(task.gradients, mesh))(*placed, {}, there, KEY, STEP)
    expected, _, expected_metrics = gradients(*state, {}, batch, KEY, STEP)
    assert_equal_but_for_rounding(found["generator"], expected["generator"])
    assert {"kl", "loss/kl", "latents/deviation", "latents/noise"} <= metrics.keys()
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)


def test_validation_is_of_the_means_and_by_volume(task, state, batch):
    params, variables = state
    losses = jax.jit(task.validate)(params, variables, {}, batch, jax.random.key(0))
    assert losses.keys() == {"val_loss", "val_loss/l1", "val_loss/kl", "val_psnr"}
    assert {values.shape for values in losses.values()} == {(BATCH,)}
    frozen = {"generator": params["generator"]}
    back = jnp.clip(task.decode_latents(frozen, task.encode(frozen, batch["image"])), -1, 1)
    l1 = task.l1 * np.abs(back - batch["image"]).mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(losses["val_loss/l1"], l1, rtol=1e-5)


def test_a_bottleneck_that_is_none_is_refused():
    with pytest.raises(UserError, match="model.bottleneck is 'vae': use 'codebook' or 'kl'"):
        Autoencoder.from_config(configuration(**{"model.bottleneck": "vae"}))
