import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core
from ml_collections import ConfigDict

from configs import medical_diffusion
from medjax.errors import UserError
from medjax.models import codebook as codebooks
from medjax.tasks.autoencoder import Autoencoder, Chances
from medjax.tasks.bottlenecks.codebook import Draws
from medjax.xla import flops

SIZE, BATCH = (16, 16, 8), 2
ROWS = jnp.arange(BATCH)


def configuration(**changes) -> ConfigDict:
    config = medical_diffusion.get_config("atlas,vqgan,tiny")
    config.data.size = SIZE
    config.model.downsample = (2, 2, 1)
    config.model.discriminator_layers = 1
    config.losses.discriminator_start = 10
    config.train.lowering = "direct"
    config.update_from_flattened_dict(changes)
    return config


def smooth_volumes(seed: int, count: int = BATCH) -> np.ndarray:
    """Balls of random places and radii in [-1, 1]."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij"), axis=-1)
    centres, radii = rng.uniform(-0.3, 0.3, (count, 1, 1, 1, 3)), rng.uniform(0.4, 0.7, (count, 1, 1, 1))
    return np.tanh(8 * (radii - np.linalg.norm(places - centres, axis=-1)))[..., None].astype("f4")


@pytest.fixture(scope="module")
def task() -> Autoencoder:
    return Autoencoder.from_config(configuration())


@pytest.fixture(scope="module")
def of_slices(task) -> Autoencoder:
    """The same with the discriminator of slices alone, which compiles sooner."""
    return dataclasses.replace(task, adversary=dataclasses.replace(task.adversary, volume=0.0))


@pytest.fixture(scope="module")
def state(task):
    return jax.jit(task.init)(jax.random.key(0), {"image": smooth_volumes(0)})


@pytest.fixture(scope="module")
def gradients(task):
    return jax.jit(task.gradients)


def batch(seed: int) -> dict[str, jax.Array]:
    return {"image": jnp.asarray(smooth_volumes(seed)), "row": ROWS}


def length(tree) -> float:
    return float(optax.global_norm(tree))


def test_discriminators_neither_learn_nor_teach_before_their_start(task, state, gradients):
    grads, variables, metrics = gradients(*state, {}, batch(0), jax.random.key(0), jnp.int32(9))
    assert length(grads["discriminator"]) == 0 < length(grads["generator"])
    assert metrics["loss/adversary"] == metrics["loss/features"] == metrics["loss/discriminator"] == 0
    parts = metrics["loss/l1"] + metrics["loss/commitment"]
    np.testing.assert_allclose(metrics["loss"], parts, rtol=1e-6)
    later, _, metrics = gradients(*state, {}, batch(0), jax.random.key(0), jnp.int32(10))
    assert length(later["discriminator"]) > 0
    assert metrics["loss/features"] > 0
    assert length(jax.tree.map(jnp.subtract, later["generator"], grads["generator"])) > 0.1 * length(grads["generator"])
    assert variables["codebook"]["initialized"]


def test_neither_loss_reaches_the_other_sides_parameters(of_slices, state):
    """Each side's gradient is that of its own loss alone, computed with the other side's parameters held."""
    task = of_slices
    draw = codebooks.draw(jax.random.key(5), 2 * 8 * 8 * 8, task.bottleneck.codes, task.latent_channels)
    chances = Chances(jnp.array([3, 9]), Draws(draw, draw))
    params, variables = state
    volumes, step = batch(0)["image"], jnp.int32(10)

    def loss(generator, discriminator, name):
        held = {"generator": generator, "discriminator": discriminator}
        return task.gradients_given(chances, held, variables, {}, volumes, step)[2][name]

    @jax.jit
    def both(params):
        expected = {
            "generator": jax.grad(loss, 0)(params["generator"], params["discriminator"], "loss"),
            "discriminator": jax.grad(loss, 1)(params["generator"], params["discriminator"], "loss/discriminator"),
        }
        return expected, task.gradients_given(chances, params, variables, {}, volumes, step)[0]

    expected, found = both(params)
    for side in expected:
        difference = jax.tree.map(jnp.subtract, found[side], expected[side])
        assert length(difference) < 1e-5 * length(expected[side])
    assert length(expected["discriminator"]) > 0


def test_steps_depend_on_rows_and_keys_alone(task, state, gradients):
    volumes = batch(0)["image"]
    forth = gradients(*state, {}, {"image": volumes, "row": ROWS}, jax.random.key(0), jnp.int32(10))
    assert forth[2]["loss"] == gradients(*state, {}, batch(0), jax.random.key(0), jnp.int32(10))[2]["loss"]
    other = gradients(*state, {}, batch(0), jax.random.key(1), jnp.int32(10))
    assert forth[2]["loss"] != other[2]["loss"]


def test_a_codebook_that_is_initialized_is_not_initialized_again(task, state, gradients):
    params, variables = state
    variables = gradients(params, variables, {}, batch(0), jax.random.key(0), jnp.int32(0))[1]
    after = gradients(params, variables, {}, batch(1), jax.random.key(1), jnp.int32(1))[1]
    moved = jnp.abs(after["codebook"]["sums"] - variables["codebook"]["sums"]).max()
    assert 0 < moved < 0.5 * jnp.abs(variables["codebook"]["sums"]).max()


@pytest.mark.parametrize(("ramp", "share"), [(0, 1.0), (5, 0.2)])
def test_ramp(task, ramp, share):
    adversary = dataclasses.replace(task.adversary, ramp=ramp)
    assert adversary.begun(jnp.int32(9)) == adversary.share(jnp.int32(9)) == 0
    np.testing.assert_allclose(adversary.share(jnp.int32(10)), share, rtol=1e-6)
    assert adversary.begun(jnp.int32(10)) == adversary.share(jnp.int32(14)) == 1


def test_adaptive_weight_balances_the_gradients_at_the_last_layer(of_slices, state):
    task, adversary = of_slices, of_slices.adversary
    adaptive = dataclasses.replace(task, adversary=dataclasses.replace(adversary, adaptive=True, features=0.0))
    step = jnp.int32(10)
    grads, _, metrics = jax.jit(adaptive.gradients)(*state, {}, batch(0), jax.random.key(0), step)
    alone = dataclasses.replace(task, adversary=dataclasses.replace(adversary, image=0.0))
    without, _, _ = jax.jit(alone.gradients)(*state, {}, batch(0), jax.random.key(0), step)
    last = [tree["generator"]["decoder"]["output_conv"]["kernel"] for tree in (grads, without)]
    assert metrics["adversary_scale"] > 0
    np.testing.assert_allclose(jnp.linalg.norm(last[0] - last[1]), jnp.linalg.norm(last[1]), rtol=0.02)
    assert length(without["discriminator"]) == 0


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_thousandth_of_the_ramp_or_of_the_weight_teaches_a_thousandth(of_slices, state, adaptive):
    def taught(**changes):
        adversary = dataclasses.replace(of_slices.adversary, adaptive=adaptive, features=0.0, **changes)
        task = dataclasses.replace(of_slices, adversary=adversary)
        return jax.jit(task.gradients)(*state, {}, batch(0), jax.random.key(0), jnp.int32(10))[2]["loss/adversary"]

    whole = taught()
    assert abs(whole) > 0
    np.testing.assert_allclose(taught(ramp=1000) / whole, 0.001, rtol=1e-4)
    np.testing.assert_allclose(
        taught(image=0.001) / whole, 0.001, rtol=0.05
    )  # its gradient comes near the 1e-4 of eq. 7


def test_statistics_of_the_discriminators_begin_with_them(state, gradients):
    for step, moved in ((9, False), (10, True)):
        after = gradients(*state, {}, batch(0), jax.random.key(0), jnp.int32(step))[1]["batch_stats"]
        for name in ("image", "volume"):
            same = jax.tree.map(lambda old, new: bool((old == new).all()), state[1]["batch_stats"][name], after[name])
            assert not any(jax.tree.leaves(same)) if moved else all(jax.tree.leaves(same))


def test_before_their_start_discriminators_cost_nothing(task, state):
    """All that a step computes more than without discriminators is in a branch that is not taken until then."""
    given = (*state, {}, batch(0), jax.random.key(0), jnp.int32(0))
    alone = dataclasses.replace(task, adversary=dataclasses.replace(task.adversary, image=0.0, volume=0.0))
    equations = jax.make_jaxpr(task.gradients)(*given).jaxpr.eqns
    of_steps = [e for e in equations if e.primitive.name == "cond" and "branches_platforms" not in e.params]
    ((before, after),) = [
        [flops.count(core.jaxpr_as_fun(branch), *branch.in_avals) for branch in conditional.params["branches"]]
        for conditional in of_steps
    ]
    assert before == 0 < after
    assert flops.count(task.gradients, *given) == flops.count(alone.gradients, *given) + after


def test_validation_is_by_volume_and_previews_are_volumes(task, state):
    params, variables = state
    losses = jax.jit(task.validate)(params, variables, {}, batch(3), jax.random.key(0))
    alone = jax.jit(task.validate)(params, variables, {}, {k: v[1:] for k, v in batch(3).items()}, jax.random.key(1))
    assert losses.keys() == {"val_loss", "val_loss/l1", "val_loss/commitment", "val_psnr"}
    for name, values in losses.items():
        assert values.shape == (BATCH,)
        np.testing.assert_allclose(values[1:], alone[name], rtol=1e-5)
    previews = jax.eval_shape(task.previews, params, variables, {}, batch(3), jax.random.key(0))
    assert previews["reconstructed"].shape == (BATCH, *SIZE, 1)


def test_tiles_change_what_is_encoded_and_decoded_at_borders_only(task, state):
    frozen = {"generator": state[0]["generator"]}
    volumes = jnp.tile(batch(0)["image"], (1, 4, 1, 1, 1))
    tiled = task.with_tile((32, 16, 8))
    latents, pieces = (jax.jit(t.encode)(frozen, volumes) for t in (task, tiled))
    assert jnp.abs(latents - pieces).mean() < 0.02 * jnp.std(latents)
    back, again = (jax.jit(t.decode)(frozen, latents) for t in (task, tiled))
    assert back.shape == volumes.shape
    assert jnp.abs(back - again).mean() < 0.02 * jnp.std(back)


def test_thirty_steps_in_bfloat16_stay_finite_when_the_discriminators_begin():
    task = Autoencoder.from_config(configuration(**{"train.dtype": "bfloat16"}))
    params, variables = jax.jit(task.init)(jax.random.key(0), batch(0))
    optimizer = optax.adam(1e-3, b1=0.5, b2=0.9)
    moments = optimizer.init(params)

    @jax.jit
    def train(params, variables, moments, batch, step):
        grads, variables, metrics = task.gradients(
            params, variables, {}, batch, jax.random.fold_in(jax.random.key(1), step), step
        )
        updates, moments = optimizer.update(grads, moments)
        return optax.apply_updates(params, updates), variables, moments, metrics

    errors = []
    for step in range(30):
        params, variables, moments, metrics = train(params, variables, moments, batch(step), jnp.int32(step))
        errors.append(float(metrics["loss/l1"]))
        assert all(jnp.isfinite(value) for value in metrics.values()), step
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((params, variables)))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, variables))} == {jnp.dtype("float32"), jnp.dtype(bool)}
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.downsample": (3, 2, 2)}, r"model.downsample is \(3, 2, 2\).*powers of two"),
        ({"model.groups": 3}, r"model.groups is 3: it must divide every width, \[8\]"),
        ({"model.norm": "layer"}, "model.norm is 'layer': use 'group' or 'batch'"),
        ({"model.padding": "mirror"}, "model.padding is 'mirror': use 'zeros' or 'replicate'"),
        ({"model.codes": 0}, "model.codes is 0: use 1 or more"),
        ({"model.codebook_decay": 1.0}, "model.codebook_decay is 1.0"),
        ({"losses.discriminator": "wgan"}, "losses.discriminator is 'wgan': use 'hinge' or 'vanilla'"),
        ({"losses.perceptual_weights": "vgg.pt"}, "losses.perceptual compares slices of 16 voxels or more"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(UserError, match=message):
        Autoencoder.from_config(configuration(**changes))


def test_refuses_tiles_of_no_whole_latents(task):
    with pytest.raises(
        UserError, match=r"latents.tile is \(16, 15, 8\): give multiples of \(2, 2, 1\), \(8, 8, 4\) or more"
    ):
        task.with_tile((16, 15, 8))
    assert task.with_tile(None) == task
