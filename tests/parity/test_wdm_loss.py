"""WDM's training step: noising in the wavelet domain, the loss over subbands, its gradients, AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from comparison import assert_close, assert_gradients
from golden_files import GoldenFile, channels_last
from medjax.diffusion.process import q_sample
from medjax.diffusion.wavelet_domain import from_wavelet_domain, subband_means, to_wavelet_domain
from medjax.wavelets import haar_dwt3d
from wdm_models import gradients_by_name, network_of, network_time, params_of, schedule_of


def noised(golden: GoldenFile) -> tuple[jax.Array, jax.Array]:
    """The clean and the noisy coefficients."""
    x_0 = to_wavelet_domain(channels_last(golden["in/x0"]))
    noise = haar_dwt3d(channels_last(golden["in/noise"])).reshape(x_0.shape)
    return x_0, q_sample(schedule_of(golden.config), x_0, golden["in/t"], noise)


def parameters_and_loss(golden: GoldenFile):
    unet = network_of(golden.config)
    x_0, x_t = noised(golden)

    def loss_of(params):
        prediction = unet.apply({"params": params}, x_t, network_time(golden.config, golden["in/t"]))
        errors = subband_means((prediction - x_0) ** 2)
        return jnp.mean(errors), (errors, prediction)

    return params_of(unet, golden.config, golden.weights), loss_of


@pytest.mark.golden("wdm_loss", "in/x0", "in/noise")
def test_coefficients(golden):
    x_0, x_t = noised(golden)
    for key, value in {"out/x_start_dwt": x_0, "out/x_t": x_t}.items():
        if key in golden:
            assert_close(value, channels_last(golden[key]), name=key)


@pytest.mark.golden("wdm_loss", "in/x0", "in/noise")
def test_loss_and_gradients(golden):
    params, loss_of = parameters_and_loss(golden)
    (loss, (errors, prediction)), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
    values = {"out/loss": loss, "out/mse_wav": errors.mean(axis=0)}
    volumes = {"out/model_output": prediction, "out/model_output_idwt": from_wavelet_domain(prediction)}
    for key, value in values.items():
        if key in golden:
            assert_close(value, golden[key], name=key)
    for key, value in volumes.items():
        if key in golden:
            assert_close(value, channels_last(golden[key]), name=key)
    assert_gradients(golden, gradients_by_name(gradients))


@pytest.mark.golden("wdm_loss", "in/x0", "in/noise", "out/adamw_")
def test_adamw_steps(golden):
    params, loss_of = parameters_and_loss(golden)
    settings = golden.config["adamw"]
    b1, b2 = settings["betas"]
    optimizer = optax.adamw(settings["lr"], b1, b2, settings["eps"], weight_decay=settings["weight_decay"])

    @jax.jit
    def step(params, state):
        (loss, _), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses, start = optimizer.init(params), [], params
    for _ in range(settings["steps"]):
        params, state, loss = step(params, state)
        losses.append(loss)
    losses.append(jax.jit(loss_of)(params)[0])
    if "out/adamw_losses" in golden:
        assert_close(losses, golden["out/adamw_losses"])
    start, end = gradients_by_name(start), gradients_by_name(params)
    for key in golden.keys("out/adamw_delta/"):
        name = key.removeprefix("out/adamw_delta/")
        assert_close(np.subtract(end[name], start[name]), golden[key], name=key)
