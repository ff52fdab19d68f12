"""Medical Diffusion's VQ-GAN: autoencoder, codebook, discriminators, and both sides of a training step."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comparison import assert_close, assert_gradients
from golden_files import GoldenFile, channels_last
from medical_models import lpips_of, state_of, vqgan_of
from medjax.codecs.latents import scaled
from medjax.interop.medical_vqgan import state_dict_paths, to_state_dict
from medjax.models import codebook as codebooks
from medjax.models.codebook import Draw
from medjax.models.perceptual import LPIPS
from medjax.tasks.adversarial import Judgement, feature_distance, hinge, vanilla
from medjax.tasks.autoencoder import Chances, take_slices
from medjax.tasks.bottlenecks.codebook import Draws

RECONSTRUCTION = ("loss", "recon_loss", "commitment_loss", "perplexity", "aeloss", "perceptual_loss", "gan_feat_loss")


class Model:
    """The task of a reference file, its parameters and variables."""

    def __init__(self, golden: GoldenFile):
        self.task = vqgan_of(golden.config)
        self.params, self.variables = state_of(self.task, golden)
        self.golden = golden

    @functools.cached_property
    def coded(self) -> dict[str, jax.Array]:
        """Latents, their codes and what is decoded from them, without training."""

        @jax.jit
        def code(params, variables, x):
            frozen = {"generator": params["generator"], **variables}
            latents = self.task.encode(frozen, x)
            codes = codebooks.nearest(variables["codebook"]["embeddings"], latents)
            quantized = self.task.bottleneck.quantize(variables, latents)
            volumes = self.task.decode(frozen, quantized)
            used, _ = codebooks.usage(codes, latents, self.task.bottleneck.codes)
            return {
                "latents": latents,
                "codes": codes,
                "quantized": quantized,
                "volumes": volumes,
                "commitment": self.task.bottleneck.weight * jnp.mean((latents - quantized) ** 2),
                "perplexity": codebooks.perplexity(used),
            }

        return code(self.params, self.variables, self.x)

    @property
    def x(self) -> np.ndarray:
        return channels_last(self.golden["in/x"])

    def by_name(self, side: str, gradients: Any) -> dict[str, np.ndarray]:
        """Gradients of the generator or of the discriminator by the names of their parameters, in the published order."""
        tree = {**self.params, side: gradients}
        paths, arrays = state_dict_paths(tree, self.variables), to_state_dict(tree, self.variables)
        return {name: arrays[name] for name, path in paths.items() if path[:2] == ("params", side)}


@pytest.mark.golden("medical_vqgan", "in/x")
def test_autoencoder(golden):
    model = Model(golden)
    found = model.coded
    volumes = {
        "out/pre_vq": "latents",
        "out/embeddings_st": "quantized",
        "out/recon_from_ids": "volumes",
        "out/recon_decode_quantize": "volumes",
        "out/eval_x_recon": "volumes",
    }
    for key, name in volumes.items():
        for suffix in ("", "_float64"):
            if key + suffix in golden:
                assert_close(found[name], channels_last(golden[key + suffix]), name=key + suffix)
    if "out/ids" in golden:
        np.testing.assert_array_equal(found["codes"], golden["out/ids"])
    if "out/dictionary_lookup" in golden:
        assert_close(found["quantized"], golden["out/dictionary_lookup"])
    for key, name in {"out/commitment_loss": "commitment", "out/perplexity": "perplexity"}.items():
        if key in golden:
            assert_close(found[name], golden[key], name=key)
    if "out/eval_recon_loss" in golden:
        assert_close(model.task.l1 * np.abs(found["volumes"] - model.x).mean(), golden["out/eval_recon_loss"])


@pytest.mark.golden("medical_vqgan", "in/x", "in/frame_idx_eval", "out/eval_perceptual_loss")
def test_perceptual_loss(golden):
    model = Model(golden)
    pair = [take_slices(x, golden["in/frame_idx_eval"]) for x in (model.x, model.coded["volumes"])]
    distances = jax.jit(LPIPS().apply)({"params": lpips_of(golden)}, *pair)
    assert_close(model.task.perceptual * distances, golden["out/eval_perceptual_loss"].reshape(-1))


@pytest.mark.golden("medical_vqgan", "in/x")
def test_activations(golden):
    model = Model(golden)
    generator, stats = model.params["generator"], model.variables["batch_stats"]
    captured = {}
    for name, network in (("encoder", model.task.encoder), ("decoder", model.task.decoder)):
        given = {"params": generator[name], "batch_stats": stats.get(name, {})}
        x = {"encoder": model.x, "decoder": model.coded["quantized"]}[name]
        apply = jax.jit(functools.partial(network.apply, capture_intermediates=True))
        captured[name] = apply(given, x)[1]["intermediates"]

    def activation(published: str) -> jax.Array:
        network, *inside = published.split(".")
        if not inside:  # after its last norm and SiLU
            return jax.nn.silu(captured[network]["head_norm"]["__call__"][0])
        _, level, part = inside
        way, module = (
            {"encoder": "down", "decoder": "up"}[network],
            {"res1": "block_0", "res2": "block_1", "res": "block"},
        )
        return captured[network][f"{way}_{level}_{module.get(part, 'conv')}"]["__call__"][0]

    if "out/encoder" in golden:
        assert_close(activation("encoder"), channels_last(golden["out/encoder"]))
    for key in golden.keys("act/"):
        found = np.moveaxis(activation(key.removeprefix("act/")), -1, 1)[:1]
        assert_close(found[:, :: found.shape[1] // golden[key].shape[1]], golden[key], name=key)


@pytest.mark.golden("medical_vqgan", "in/x", "out/codebook_min_max")
def test_scaled_latents(golden):
    model = Model(golden)
    low, high = (extreme(model.variables["codebook"]["embeddings"]) for extreme in (np.min, np.max))
    assert_close([low, high], golden["out/codebook_min_max"])
    if "out/latent_normalised" in golden:
        assert_close(scaled(model.coded["latents"], low, high), channels_last(golden["out/latent_normalised"]))


@pytest.mark.parametrize(("name", "published", "axes"), [("image", "image", 2), ("volume", "video", 3)])
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.golden("medical_vqgan", "in/disc_")
def test_discriminators(golden, name, published, axes, mode):
    if f"in/disc_{published}/real" not in golden:
        return
    model, out = Model(golden), f"out/disc_{published}/{mode}"
    params, stats = model.params["discriminator"][name], model.variables["batch_stats"].get(name, {})

    @jax.jit
    def judge(params, stats, x):
        given = {"params": params, "batch_stats": stats}
        return model.task.discriminator.apply(given, x, train=mode == "train", mutable=["batch_stats"])

    results = {}
    for what in ("real", "fake"):
        x = np.moveaxis(golden[f"in/disc_{published}/{what}"], 1, -1)
        (logits, features), changed = judge(params, stats, x)
        stats = changed.get("batch_stats", stats)
        results[what] = logits, features
        if f"{out}/logits_{what}" in golden:
            assert_close(np.moveaxis(logits, -1, 1), golden[f"{out}/logits_{what}"], name=f"logits_{what}")
        for i, feature in enumerate([*(feature.values for feature in features), logits]):
            if (key := f"{out}/feat_{what}_{i}") in golden:
                feature = np.moveaxis(feature, -1, 1)
                assert_close(feature[:, :: feature.shape[1] // golden[key].shape[1]], golden[key], name=key)
    (real, real_features), (fake, fake_features) = results["real"], results["fake"]
    judgement = Judgement(real, fake, real_features, fake_features)
    for loss, function in {"hinge": hinge, "vanilla": vanilla, "feature_matching": feature_distance}.items():
        if f"{out}/{loss}" in golden:
            assert_close(function(judgement), golden[f"{out}/{loss}"], name=loss)
    if f"{out}/n_features" in golden:
        assert len(real_features) + 1 == golden[f"{out}/n_features"]
    for key in golden.keys(f"{out}/after/"):
        layer, leaf = key.removeprefix(f"{out}/after/model").split(".1.")
        if leaf.startswith("running_"):
            assert_close(stats[f"norm_{layer}"][leaf.removeprefix("running_")], golden[key], name=key)


def draw_of(golden: GoldenFile, order: str, noise: str, latents: np.ndarray, codebook: codebooks.Codebook) -> Draw:
    """What the published code drew: it shuffles all latents, repeated and with noise if there are too few."""
    codes, channels = codebook["embeddings"].shape
    rows, noises = golden[order][:codes], np.zeros((codes, channels), np.float32)
    if noise in golden:
        noises = golden[noise][rows] * np.float32(0.01 / np.sqrt(channels))
    return Draw(jnp.asarray(rows % latents[..., 0].size, jnp.int32), jnp.asarray(noises))


@pytest.mark.parametrize("series", ["codebook", "codebook_tile"])
@pytest.mark.golden("medical_vqgan", "in/codebook")
def test_codebook_steps(golden, series):
    bottleneck = vqgan_of(golden.config).bottleneck
    codebook = bottleneck.init(jax.random.key(0))["codebook"]

    @jax.jit
    def step(codebook, z, g, first_codes, restarts):
        def loss_of(z):
            learned = codebooks.learn(
                codebook,
                z,
                first_codes,
                restarts,
                decay=bottleneck.decay,
                restart_threshold=bottleneck.restart_threshold,
                restart_statistics=bottleneck.restart_statistics,
            )
            commitment = bottleneck.weight * learned.distance
            return jnp.sum(learned.quantized * g) + 3 * commitment, (
                commitment,
                learned,
            )  # whose gradients were recorded

        return jax.value_and_grad(loss_of, has_aux=True)(z)

    for i in range(sum(key.endswith("/z") for key in golden.keys(f"in/{series}/step"))):
        inputs, out = f"in/{series}/step{i}", f"out/{series}/step{i}"
        z, g = (jnp.asarray(channels_last(golden[f"{inputs}/{name}"])) for name in ("z", "g"))
        restarts = draw_of(golden, f"{inputs}/randperm_restart", f"{inputs}/tile_noise_restart", z, codebook)
        first = (
            draw_of(golden, f"{inputs}/randperm_init", f"{inputs}/tile_noise_init", z, codebook) if i == 0 else restarts
        )
        (_, (commitment, learned)), grad_z = step(codebook, z, g, first, restarts)
        codes = codebooks.nearest(codebooks.initialize(codebook, z, first)["embeddings"], z)
        if f"{out}/ids" in golden:
            np.testing.assert_array_equal(codes, golden[f"{out}/ids"], err_msg=f"{out}/ids")
        codebook = learned.codebook
        found = {
            "embeddings": codebook["embeddings"],
            "N": codebook["counts"],
            "z_avg": codebook["sums"],
            "embeddings_st": np.moveaxis(learned.quantized, -1, 1),
            "commitment_loss": commitment,
            "perplexity": codebooks.perplexity(learned.used),
            "grad_z": np.moveaxis(grad_z, -1, 1),
            "n_restarted": learned.restarted,
        }
        for name, value in found.items():
            if f"{out}/{name}" in golden:
                assert_close(value, golden[f"{out}/{name}"], name=f"{out}/{name}")


@pytest.mark.golden("medical_vqgan", "in/x", "in/train_frame_idx", "out/train_step")
def test_training_steps(golden):
    model = Model(golden)
    task, codebook = model.task, model.variables["codebook"]
    restarts = Draw(jnp.zeros((task.bottleneck.codes,), jnp.int32), jnp.zeros_like(codebook["embeddings"]))
    if "in/train_randperm" in golden:
        restarts = draw_of(golden, "in/train_randperm", "in/train_tile_noise", model.coded["latents"], codebook)
    chances = Chances(jnp.asarray(golden["in/train_frame_idx"]), Draws(restarts, restarts))
    frozen = {"perceptual": lpips_of(golden)} if task.perceptual > 0 else {}
    gradients = jax.jit(task.gradients_given)

    steps = {key.split("/")[1].removesuffix("_opt0").removesuffix("_opt1") for key in golden.keys("out/train_step")}
    for name in sorted(steps):
        step = jnp.int32(int(name.removeprefix("train_step")))
        grads, variables, metrics = gradients(chances, model.params, model.variables, frozen, model.x, step)
        generator, discriminator = f"out/{name}_opt0", f"out/{name}_opt1"
        losses = {
            "recon_loss": metrics["loss/l1"],
            "commitment_loss": metrics["loss/commitment"],
            "perplexity": metrics["codebook/perplexity"],
            "aeloss": metrics.get("loss/adversary", 0.0),
            "perceptual_loss": metrics.get("loss/perceptual", 0.0),
            "gan_feat_loss": metrics.get("loss/features", 0.0),
            "loss": metrics["loss"],
        }
        for loss, value in losses.items():
            if f"{generator}/{loss}" in golden:
                assert_close(value, golden[f"{generator}/{loss}"], name=f"{generator}/{loss}")
        if f"{discriminator}/loss" in golden:
            assert_close(metrics.get("loss/discriminator", 0.0), golden[f"{discriminator}/loss"])
        if f"{generator}/codebook_after/N" in golden:
            for ours, theirs in {"embeddings": "embeddings", "counts": "N", "sums": "z_avg"}.items():
                assert_close(variables["codebook"][ours], golden[f"{generator}/codebook_after/{theirs}"], name=theirs)
        assert_gradients(golden, model.by_name("generator", grads["generator"]), f"{generator}/")
        assert_gradients(golden, model.by_name("discriminator", grads["discriminator"]), f"{discriminator}/")


@pytest.mark.golden("medical_vqgan")
def test_weights_come_back(golden):
    model = Model(golden)
    state_dict = to_state_dict(model.params, model.variables)
    theirs = {name: array for name, array in golden.weights.items() if not name.startswith("perceptual_model.")}
    assert state_dict.keys() == theirs.keys()
    assert all((state_dict[name] == array).all() for name, array in theirs.items() if "num_batches" not in name)
    for part, count in golden.config.get("n_params", {}).items():
        if part != "perceptual_model":
            ours = (
                name for name, path in state_dict_paths(model.params, model.variables).items() if path[0] == "params"
            )
            assert sum(state_dict[name].size for name in ours if name.startswith(f"{part}.")) == count, part
