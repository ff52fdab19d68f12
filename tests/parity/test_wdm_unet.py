"""WDM's U-Net: outputs, activations, gradients, and where its weights lie."""

import jax
import jax.numpy as jnp
import pytest

from comparison import assert_close, assert_gradients
from golden_files import channels_last
from medjax.interop.wdm import state_dict_from_params, state_dict_names
from wdm_models import params_of, unet_of


@pytest.mark.golden("wdm_unet", "out/y")
def test_outputs(golden):
    unet = unet_of(golden.config)
    params = params_of(unet, golden.config, golden.weights)
    apply = jax.jit(unet.apply)
    for i in ("", "2", "3"):
        if f"out/y{i}" in golden:
            y = apply({"params": params}, channels_last(golden[f"in/x{i}"]), golden[f"in/t{i}"])
            assert_close(y, channels_last(golden[f"out/y{i}"]))
            if i == "" and "out/y_float64" in golden:
                assert_close(y, channels_last(golden["out/y_float64"]))


@pytest.mark.golden("wdm_unet", "act/")
def test_activations(golden):
    unet = unet_of(golden.config).clone(lowering="planes")
    params = params_of(unet, golden.config, golden.weights)
    x_t, t = channels_last(golden["in/x"]), golden["in/t"]
    _, captured = jax.jit(lambda p: unet.apply(p, x_t, t, capture_intermediates=True))({"params": params})
    paths = {name.rpartition(".")[0]: path[:-1] for path, name in state_dict_names(params).items()}
    for key in golden.keys("act/"):
        published = key.removeprefix("act/")
        # A published container's output is that of the last of our modules whose weights lie in it.
        module = paths.get(published) or [paths[name][:1] for name in paths if name.startswith(published + ".")][-1]
        outputs = captured["intermediates"]
        for name in module:
            outputs = outputs[name]
        activation = outputs["__call__"][0][:1]
        activation = activation if activation.ndim == 2 else jnp.moveaxis(activation, -1, 1)
        stride = 8 if key in golden.config.get("act_channel_stride8", ()) else 1
        assert_close(activation[:, ::stride], golden[key], name=key)


@pytest.mark.golden("wdm_unet", "out/grad")
def test_gradients(golden):
    unet = unet_of(golden.config)
    params = params_of(unet, golden.config, golden.weights)

    def loss_of(params, x_t):
        return jnp.mean(unet.apply({"params": params}, x_t, golden["in/t"]) ** 2)

    differentiate = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))
    loss, (gradients, gradient_x) = differentiate(params, channels_last(golden["in/x"]))
    if "out/loss" in golden:
        assert_close(loss, golden["out/loss"])
    if "out/grad_x" in golden:
        assert_close(gradient_x, channels_last(golden["out/grad_x"]))
    assert_gradients(golden, state_dict_from_params(gradients))


@pytest.mark.golden("wdm_unet")
def test_weights_come_back(golden):
    params = params_of(unet_of(golden.config), golden.config, golden.weights)
    state_dict = state_dict_from_params(params)
    assert state_dict.keys() == golden.weights.keys()
    assert all((state_dict[name] == weight).all() for name, weight in golden.weights.items())
    if "n_params" in golden.config:
        assert sum(weight.size for weight in state_dict.values()) == golden.config["n_params"]
