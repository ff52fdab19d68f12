"""WDM's two networks: outputs, activations, gradients, and where their weights lie."""

import jax
import jax.numpy as jnp
import pytest

from comparison import assert_activations, assert_close, assert_gradients
from golden_files import channels_last
from medjax.interop.wdm import state_dict_from_params
from medjax.interop.wdm_names import state_dict_paths
from wdm_models import gradients_by_name, network_of, params_of


@pytest.mark.golden("wdm_unet", "out/y")
@pytest.mark.golden("wdm_wavunet", "out/y")
def test_outputs(golden):
    network = network_of(golden.config)
    params = params_of(network, golden.config, golden.weights)
    apply = jax.jit(network.apply)
    for i in ("", "2", "3"):
        if f"out/y{i}" in golden:
            y = apply({"params": params}, channels_last(golden[f"in/x{i}"]), golden[f"in/t{i}"])
            assert_close(y, channels_last(golden[f"out/y{i}"]))
            if i == "" and "out/y_float64" in golden:
                assert_close(y, channels_last(golden["out/y_float64"]))


@pytest.mark.golden("wdm_unet", "act/")
@pytest.mark.golden("wdm_wavunet", "act/")
def test_activations(golden):
    network = network_of(golden.config).clone(lowering="planes")
    params = params_of(network, golden.config, golden.weights)
    x_t, t = channels_last(golden["in/x"]), golden["in/t"]
    _, captured = jax.jit(lambda p: network.apply(p, x_t, t, capture_intermediates=True))({"params": params})
    outputs = captured["intermediates"]
    modules = {name.rpartition(".")[0]: path[:-1] for name, path in state_dict_paths(params).items()}

    def activation(published: str) -> jax.Array:
        # A published container's output is that of the last of our modules whose weights lie in it.
        last = [name for name in modules if name.startswith(published + ".")][-1:]
        found = outputs
        for key in modules.get(published) or modules[last[0]][:1]:
            found = found[key]
        value = found["__call__"][0]  # of the first time, where a module is applied twice
        value = value[0] if isinstance(value, tuple) else value  # what goes on, without the details
        return value[:1]

    for key in golden.keys("act/"):
        found = activation(key.removeprefix("act/"))
        found = found if found.ndim == 2 else jnp.moveaxis(found, -1, 1)
        stride = 8 if key in golden.config.get("act_channel_stride8", ()) else 1
        assert_activations(found[:, ::stride], golden[key], name=key)


@pytest.mark.golden("wdm_unet", "out/grad")
@pytest.mark.golden("wdm_wavunet", "out/grad")
def test_gradients(golden):
    network = network_of(golden.config)
    params = params_of(network, golden.config, golden.weights)

    def loss_of(params, x_t):
        return jnp.mean(network.apply({"params": params}, x_t, golden["in/t"]) ** 2)

    differentiate = jax.jit(jax.value_and_grad(loss_of, argnums=(0, 1)))
    loss, (gradients, gradient_x) = differentiate(params, channels_last(golden["in/x"]))
    if "out/loss" in golden:
        assert_close(loss, golden["out/loss"])
    if "out/grad_x" in golden:
        assert_close(gradient_x, channels_last(golden["out/grad_x"]))
    assert_gradients(golden, gradients_by_name(gradients))


@pytest.mark.golden("wdm_unet")
@pytest.mark.golden("wdm_wavunet")
def test_weights_come_back(golden):
    params = params_of(network_of(golden.config), golden.config, golden.weights)
    state_dict = state_dict_from_params(params)
    assert state_dict.keys() == golden.weights.keys()
    assert all((state_dict[name] == weight).all() for name, weight in golden.weights.items())
    if "n_params" in golden.config:
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == golden.config["n_params"]
