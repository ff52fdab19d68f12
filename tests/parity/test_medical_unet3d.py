"""Medical Diffusion's U-Net on latents, and its diffusion: outputs, activations, gradients, losses, steps, loops, Adam."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from comparison import assert_activations, assert_close, assert_gradients
from golden_files import GoldenFile, channels_last
from medjax.codecs.latents import DYNAMIC_SHARE, scaled, unscaled
from medjax.diffusion import process
from medjax.diffusion.objective import Objective
from medjax.diffusion.samplers.ancestral import ancestral_step
from medjax.diffusion.schedules import Schedule, cosine
from medjax.diffusion.thresholds import threshold_dynamically
from medjax.interop.medical_ddpm import state_dict_paths, to_params, to_state_dict
from medjax.layers.conditions import Condition
from medjax.layers.relative_bias import RelativeBias
from medjax.layers.rotary import frequencies, rotate_along_depth
from medjax.models.factorized_unet import FactorizedUNet
from test_diffusion_tables import tables_of
from whole_samples import ancestral

LABELS = "label_embedding"


def classes_of(count: int) -> tuple[Condition, ...]:
    """Makes the condition of so many classes."""
    return (Condition("class", "class", count),)


class Model:
    """The network of a reference file. Its `cond` vectors are label embeddings to us, each example its own label."""

    def __init__(self, golden: GoldenFile):
        options = golden.config | golden.config["kwargs"]
        self.golden, cond_dim = golden, options.get("cond_dim")
        self.network = FactorizedUNet(
            out_channels=options.get("out_dim") or options["channels"],
            base_channels=options["dim"],
            channel_multipliers=tuple(options["dim_mults"]),
            groups=options["resnet_groups"],
            attention_heads=options["attn_heads"],
            attention_head_channels=options["attn_dim_head"],
            first_kernel=options["init_kernel_size"],
            spatial_attention="linear" if options.get("use_sparse_linear_attn", True) else "none",
            conditions=classes_of(1) if cond_dim else (),
            label_channels=cond_dim,
        )
        edge = 2 ** len(options["dim_mults"])
        x = jax.ShapeDtypeStruct((1, 2, edge, edge, options["channels"]), jnp.float32)
        t = jax.ShapeDtypeStruct((1,), jnp.int32)
        shapes = dict(jax.eval_shape(self.network.init, jax.random.key(0), x, t)["params"])
        shapes.pop(LABELS, None)
        weights = dict(golden.weights)
        self.unknown = weights.pop("null_cond_emb", None)
        self.params = to_params(weights, shapes)
        if cond_dim:
            self.params[LABELS] = {"table": self.unknown}

    def __call__(self, params: dict[str, Any], x: jax.Array, t: jax.Array, call: str = "", **options) -> Any:
        """The network's output for the inputs whose keys end in `call`."""
        if LABELS not in params:
            return self.network.apply({"params": params}, x, t, **options)
        name = f"in/cond{call}"
        known = self.golden[name if name in self.golden else "in/cond"][: len(x)]
        network = self.network.clone(conditions=classes_of(len(known)))
        params = params | {LABELS: {"table": jnp.concatenate([known, params[LABELS]["table"]])}}
        return network.apply({"params": params}, x, t, {"class": jnp.arange(len(known))}, **options)

    def by_name(self, tree: dict[str, Any]) -> dict[str, np.ndarray]:
        """Parameters or gradients by their published names, in the order of `parameters()`."""
        tree = dict(tree)
        first = {"null_cond_emb": np.asarray(tree.pop(LABELS)["table"])} if LABELS in tree else {}
        paths = state_dict_paths(tree)
        return first | {name: array for name, array in to_state_dict(tree).items() if paths[name]}


@pytest.mark.golden("medical_unet3d", "out/y")
def test_outputs(golden):
    model = Model(golden)
    for call in ("", "2", "3"):
        if f"out/y{call}" in golden:
            x, t = channels_last(golden[f"in/x{call}"]), golden[f"in/t{call}"]
            y = jax.jit(lambda params, x, t, call=call: model(params, x, t, call))(model.params, x, t)
            assert_close(y, channels_last(golden[f"out/y{call}"]), name=f"y{call}")
            if f"out/y{call}_float64" in golden:
                assert_close(y, channels_last(golden[f"out/y{call}_float64"]))


@pytest.mark.golden("medical_unet3d", "act/")
def test_activations(golden):
    model = Model(golden)
    model.network = model.network.clone(lowering="planes")
    x, t = channels_last(golden["in/x"]), golden["in/t"]
    _, captured = jax.jit(lambda params: model(params, x, t, capture_intermediates=True))(model.params)
    unlabelled = {name: leaves for name, leaves in model.params.items() if name != LABELS}
    modules = {name: path[0] for name, path in state_dict_paths(unlabelled).items() if path}

    def activation(published: str) -> jax.Array:
        lying_in = [module for name, module in modules.items() if name.startswith(published + ".")]
        if not lying_in:  # an identity: what came before it
            stem, _, place = published.rpartition(".")
            return activation(f"{stem}.{int(place) - 1}")
        return captured["intermediates"][lying_in[0]]["__call__"][0][:1]

    for key in golden.keys("act/"):
        found = activation(key.removeprefix("act/"))
        found = found if found.ndim == 2 else jnp.moveaxis(found, -1, 1)
        stride = found.shape[1] // golden[key].shape[1]  # some hold every fourth channel
        assert_activations(found[:, ::stride], golden[key], name=key)


@pytest.mark.golden("medical_unet3d", "out/grad")
def test_gradients(golden):
    model = Model(golden)
    t = golden["in/t"]
    differentiate = jax.jit(jax.value_and_grad(lambda params, x: jnp.mean(model(params, x, t) ** 2), argnums=(0, 1)))
    loss, (gradients, gradient_x) = differentiate(model.params, channels_last(golden["in/x"]))
    if "out/loss" in golden:
        assert_close(loss, golden["out/loss"])
    if "out/grad_x" in golden:
        assert_close(gradient_x, channels_last(golden["out/grad_x"]))
    assert_gradients(golden, model.by_name(gradients))


@pytest.mark.golden("medical_unet3d")
def test_weights_come_back(golden):
    model = Model(golden)
    params = {name: leaves for name, leaves in model.params.items() if name != LABELS}
    state_dict = to_state_dict(params)
    assert list(state_dict.keys() - golden.weights.keys()) == []
    assert all((state_dict[name] == golden.weights[name]).all() for name in state_dict)
    if "n_params" in golden.config:
        assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == golden.config["n_params"]


@pytest.mark.golden("medical_unet3d", "out/time_rel_pos_bias_")
def test_relative_positions(golden):
    params = {"params": {"table": golden.weights["time_rel_pos_bias.relative_attention_bias.weight"]}}
    for key in golden.keys("out/time_rel_pos_bias_"):
        expected = golden[key]
        assert_close(RelativeBias(len(expected)).apply(params, expected.shape[1]), expected, atol=0, name=key)


@pytest.mark.golden("medical_unet3d", "in/rotary_q")
def test_rotation(golden):
    query = golden["in/rotary_q"].transpose(0, 2, 1, 3)[:, :, None, None]  # [B, D, 1, 1, heads, features]
    width = min(32, query.shape[-1])
    turned = rotate_along_depth(jnp.asarray(query), width)[:, :, 0, 0].transpose(0, 2, 1, 3)
    if "out/rotary_q" in golden:
        assert_close(turned, golden["out/rotary_q"])
    if "out/rotary_freqs" in golden:
        np.testing.assert_array_equal(frequencies(width), golden["out/rotary_freqs"])


@pytest.mark.golden("medical_unet3d", "out/tables_")
def test_tables(golden):
    for key in golden.keys("out/tables_"):
        steps, table = key.removeprefix("out/tables_").split("/")
        schedule = published_schedule(int(steps))
        value = log_variance(schedule) if "log_variance" in table else tables_of(schedule)[table]
        assert_close(value, golden[key], atol=1e-30, rtol=1e-7, name=key)


def published_schedule(steps: int) -> Schedule:
    return cosine(steps, max_beta=0.9999)


def log_variance(schedule: Schedule) -> np.ndarray:
    return np.log(np.maximum(schedule.posterior_variance, 1e-20))


@pytest.mark.golden("medical_unet3d", "in/x0", "in/noise", "in/t_loss")
def test_losses(golden):
    model, schedule = Model(golden), published_schedule(golden.config["T"][0])
    x_0, noise = (channels_last(golden[f"in/{name}"]) for name in ("x0", "noise"))
    t = golden["in/t_loss"]
    x_t = process.q_sample(schedule, x_0, t, noise)
    if "out/x_noisy" in golden:
        assert_close(x_t, channels_last(golden["out/x_noisy"]))
    prediction = jax.jit(model)(model.params, x_t, t)
    for theirs, ours in {"l1": "l1", "l2": "mse"}.items():
        if (key := f"out/p_losses_{theirs}") in golden:
            objective = Objective(schedule, "noise", loss=ours)
            assert_close(jnp.mean(objective.errors(prediction, noise)), golden[key], name=key)


@pytest.mark.golden("medical_unet3d", "in/p_sample_x", "in/p_sample_t")
def test_steps(golden):
    model, schedule = Model(golden), published_schedule(golden.config["T"][0])
    x_t, t = channels_last(golden["in/p_sample_x"]), golden["in/p_sample_t"]
    prediction = jax.jit(model)(model.params, x_t, t)
    x_0 = process.x_0_from_noise(schedule, x_t, t, prediction)
    noise = channels_last(golden["in/p_sample_noise"]) if "in/p_sample_noise" in golden else jnp.zeros_like(x_t)

    def step(x_0: jax.Array) -> jax.Array:
        return ancestral_step(schedule, x_t, t, x_0, noise, schedule.posterior_variance)

    clipped = jnp.clip(x_0, -1, 1)
    values = {
        "p_sample": step(clipped),
        "p_sample_noclip": step(x_0),
        "p_mean": process.posterior_mean(schedule, x_t, t, clipped),
        "p_mean_dynamic_thres": process.posterior_mean(
            schedule, x_t, t, threshold_dynamically(x_0, golden.config.get("dynamic_thres_percentile", DYNAMIC_SHARE))
        ),
    }
    atol = 2e-5 * np.maximum(1, noise_weight(schedule)[t]).reshape(-1, 1, 1, 1, 1)
    for name, value in values.items():
        if f"out/{name}" in golden:
            assert_close(value, channels_last(golden[f"out/{name}"]), atol=atol, name=name)
    if "out/p_log_variance" in golden:
        assert_close(log_variance(schedule)[t], golden["out/p_log_variance"])


def noise_weight(schedule: Schedule) -> np.ndarray:
    """What an error of 1 in the predicted noise is in x_{t-1}, by way of x_0."""
    return np.sqrt(1 / schedule.alphas_cumprod - 1) * schedule.posterior_mean_coef1


@pytest.mark.golden("medical_unet3d", "in/loop")
def test_loops(golden):
    model = Model(golden)
    for key in golden.keys("in/loop"):
        if not key.endswith("_init"):
            continue
        loop = key.removeprefix("in/").removesuffix("_init")
        schedule = published_schedule(int(loop.removeprefix("loop")))
        noises = jnp.asarray(channels_last(golden[f"in/{loop}_noises"])[::-1])  # drawn for the last step first
        x_T = channels_last(golden[key])

        def draw(params, schedule=schedule, noises=noises, x_T=x_T, loop=loop):
            def denoise(x_t, t):
                return jnp.clip(process.x_0_from_noise(schedule, x_t, t, model(params, x_t, t, loop)), -1, 1)

            return ancestral(denoise, x_T, lambda i: noises[i], schedule, schedule.posterior_variance)

        atol = 2e-5 * max(1, *noise_weight(schedule))
        assert_close(jax.jit(draw)(model.params), channels_last(golden[f"out/{loop}"]), atol=atol, name=loop)


@pytest.mark.golden("medical_unet3d", "in/norm_embeddings", "in/norm_latent")
def test_latents_are_scaled_by_the_codebook(golden):
    embeddings, latents = golden["in/norm_embeddings"], channels_last(golden["in/norm_latent"])
    low, high = embeddings.min(), embeddings.max()
    x_0 = scaled(latents, low, high)
    if "out/norm_latent" in golden:
        assert_close(x_0, channels_last(golden["out/norm_latent"]))
    if "out/norm_roundtrip" in golden:
        assert_close(unscaled(x_0, low, high), channels_last(golden["out/norm_roundtrip"]))


@pytest.mark.golden("medical_unet3d", "out/adam_")
def test_adam_and_the_average(golden):
    model, schedule, settings = Model(golden), published_schedule(golden.config["T"][0]), golden.config["adam"]
    x_0, noise = (channels_last(golden[f"in/{name}"]) for name in ("x0", "noise"))
    t = golden["in/t_loss"]
    objective = Objective(schedule, "noise", loss={"l1": "l1", "l2": "mse"}[settings["loss"]])
    x_t = objective.q_sample(x_0, t, noise)
    optimizer = optax.adam(settings["lr"], *settings["betas"], settings["eps"])

    @jax.jit
    def step(params, state):
        loss, gradients = jax.value_and_grad(lambda p: jnp.mean(objective.errors(model(p, x_t, t), noise)))(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params = average = model.params
    state, losses, decay = optimizer.init(params), [], settings["ema_decay"]
    for _ in range(settings["steps"]):
        params, state, loss = step(params, state)
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, params)
        losses.append(loss)
    if "out/adam_losses" in golden:
        assert_close(losses, golden["out/adam_losses"])
    start, trees = model.by_name(model.params), {"adam": model.by_name(params), "ema": model.by_name(average)}
    for which, tree in trees.items():
        for key in golden.keys(f"out/{which}_delta/"):
            name = key.removeprefix(f"out/{which}_delta/")
            assert_close(np.subtract(tree[name], start[name]), golden[key], name=key)
