import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.conditions import Condition
from medjax.models.unet import UNet, size_multiple
from test_blocks import randomized
from tolerance import assert_equal_but_for_rounding, moved_by_last_bits

X_T = np.random.default_rng(0).standard_normal((2, 4, 8, 8, 8)).astype(np.float32)
T = np.array([3, 871])
SMALL = UNet(out_channels=5, base_channels=4, channel_multipliers=(1, 2), blocks_per_level=1, groups=2)

OPTIONS = {
    "published": {},
    "concatenated": {"skip": "concat", "attention_factors": (2,), "attention_heads": 2, "up_attention_heads": 4},
    "placed": {"position_channels": 3},
    "slices": {"keep_depth": True, "resample_blocks": False, "scale_shift_norm": True, "middle_attention": True},
}


def parameter_shapes(unet: UNet, x_t=X_T):
    return jax.eval_shape(unet.init, jax.random.key(0), x_t, T[: len(x_t)])


@pytest.mark.parametrize(
    ("multipliers", "parameters"), [((1, 2, 2, 4, 4), 57_914_824), ((1, 2, 2, 4, 4, 4), 83_158_728)]
)
def test_published_sizes(multipliers, parameters):
    shapes = parameter_shapes(UNet(8, channel_multipliers=multipliers), np.zeros((1, 32, 32, 32, 8)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_lowering_fold_and_remat_change_neither_parameters_nor_results(options):
    unet = SMALL.clone(**options)
    other = unet.clone(lowering="planes", fold=(4, 2), remat=True)
    assert jax.tree.map(jnp.shape, parameter_shapes(other)) == jax.tree.map(jnp.shape, parameter_shapes(unet))
    params = randomized(parameter_shapes(unet))
    expected, result = (jax.jit(network.apply)(params, X_T, T) for network in (unet, other))
    assert expected.shape == (*X_T.shape[:4], 5)
    assert 0.1 < jnp.std(expected) < 1000
    np.testing.assert_allclose(result, expected, atol=2e-5 * jnp.std(expected), rtol=1e-4)


def test_folded_levels_beside_others_give_the_same_gradients():
    params = randomized(parameter_shapes(SMALL))

    def gradients(unet):
        return jax.jit(jax.grad(lambda params: jnp.mean(unet.apply(params, X_T, T) ** 2)))

    direct, folded = gradients(SMALL), gradients(SMALL.clone(lowering=("planes", "direct"), fold=(2, 1)))
    assert_equal_but_for_rounding(folded(params), direct(params), moves=moved_by_last_bits(direct, params))


@pytest.mark.parametrize("remat", [True, (True, False)])
def test_remat_gives_the_same_gradients_dropout_included(remat):
    unet = SMALL.clone(dropout=0.3, blocks_per_level=1)
    params = randomized(parameter_shapes(unet))

    def gradient(unet):
        def loss(params):
            return jnp.mean(unet.apply(params, X_T, T, train=True, rngs={"dropout": jax.random.key(0)}) ** 2)

        return jax.jit(jax.grad(loss))(params)

    expected, recomputed = gradient(unet), gradient(unet.clone(remat=remat))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_remat_is_of_the_levels_that_it_names():
    def recomputed(remat) -> set[str]:
        """The blocks whose activations are recomputed, by the names in the gradient's program."""
        unet = SMALL.clone(remat=remat)
        params = randomized(parameter_shapes(unet))
        loss = jax.grad(lambda params: jnp.mean(unet.apply(params, X_T, T)))
        text = jax.jit(loss).lower(params).as_text(debug_info=True)
        return {name for name in params["params"] if f"rematted_computation/{name}/" in text}

    blocks = {name for name in parameter_shapes(SMALL)["params"] if "block" in name or "resample" in name}
    lowest = {name for name in blocks if "_1_block" in name or name.startswith("middle")}
    assert recomputed(False) == set()
    assert recomputed((True, False)) == blocks - lowest
    assert recomputed(True) == blocks


def test_skips_are_averaged_or_joined():
    """The width of the block that takes a skip: the previous block's, or that and the skip's."""
    first_up = "up_1_block_0"
    added = parameter_shapes(SMALL)["params"][first_up]["conv_1"]["kernel"].shape
    joined = parameter_shapes(SMALL.clone(skip="concat"))["params"][first_up]["conv_1"]["kernel"].shape
    assert (added[3], joined[3]) == (8, 16)


def test_bfloat16_is_close_and_gives_float32():
    params = randomized(parameter_shapes(SMALL))
    expected = jax.jit(SMALL.apply)(params, X_T, T)
    half = SMALL.clone(dtype=jnp.bfloat16)
    assert jax.tree.map(lambda leaf: leaf.dtype, parameter_shapes(half)) == jax.tree.map(
        lambda leaf: jnp.dtype("float32"), parameter_shapes(SMALL)
    )
    result = jax.jit(half.apply)(params, X_T, T)
    assert result.dtype == jnp.float32
    assert 0 < jnp.abs(result - expected).mean() < 0.05 * jnp.std(expected)


def test_positions_tell_equal_places_apart():
    """Far from the borders a constant volume looks the same everywhere, unless the network knows where it is."""
    flat = np.ones((1, 16, 16, 16, 8), np.float32)
    spread = {}
    for channels in (0, 2):
        unet = SMALL.clone(position_channels=channels, channel_multipliers=(1,))
        params = randomized(parameter_shapes(unet, flat))
        inside = jax.jit(unet.apply)(params, flat, T[:1])[0, 6:10, 6:10, 6:10]
        spread[channels] = float(jnp.std(inside, axis=(0, 1, 2)).max() / jnp.std(inside))
    assert spread[0] < 1e-3 < 1e-2 < spread[2]


def test_starts_at_zero():
    tiny = SMALL.clone(channel_multipliers=(1,))
    y, _ = jax.jit(tiny.init_with_output)(jax.random.key(0), X_T, T)
    np.testing.assert_array_equal(y, 0)


def test_depends_on_time():
    apply, params = jax.jit(SMALL.apply), randomized(parameter_shapes(SMALL))
    assert jnp.abs(apply(params, X_T, T) - apply(params, X_T, T + 50)).max() > 1e-3


def test_labels_are_told():
    network = SMALL.clone(conditions=(Condition("class", "class", 3),), channel_multipliers=(1,))
    params = randomized(parameter_shapes(network))
    label = np.array([2, -1], np.int32)
    told = jax.jit(lambda label: network.apply(params, X_T, T, {"class": label}))(label)
    unknown = jax.jit(network.apply)(params, X_T, T)
    np.testing.assert_allclose(told[1], unknown[1], atol=1e-5)
    assert jnp.abs(told[0] - unknown[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "multiple"),
    [
        ((1,), (1, 1, 1)),
        ((5,), (16, 16, 16)),
        ((3, True), (1, 4, 4)),
        ((3, False, 2), (4, 4, 8)),
        ((3, False, (4, 2, 1)), (4, 4, 4)),
        ((2, False, (3, 1)), (2, 2, 6)),
    ],
)
def test_size_multiple(arguments, multiple):
    assert size_multiple(*arguments) == multiple


def test_refuses_what_its_levels_cannot_halve():
    with pytest.raises(ValueError, match=r"\(1, 4, 7, 8, 8\).*2 levels.*\(2, 2, 2\)"):
        SMALL.init(jax.random.key(0), np.zeros((1, 4, 7, 8, 8)), T[:1])
    with pytest.raises(ValueError, match="one a level"):
        SMALL.clone(fold=(2, 1, 1)).init(jax.random.key(0), X_T, T)
    with pytest.raises(ValueError, match="'multiply'"):
        SMALL.clone(skip="multiply").init(jax.random.key(0), X_T, T)
