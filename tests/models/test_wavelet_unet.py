import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gathered import gathered_by_wavelet_unet
from medjax.models.wavelet_unet import WaveletUNet
from medjax.runtime.mesh import batch_sharding, make_mesh, on_mesh, replicated
from test_blocks import randomized

X_T = np.random.default_rng(0).standard_normal((2, 4, 8, 8, 8)).astype(np.float32)
T = np.array([3, 871])
SMALL = WaveletUNet(out_channels=5, base_channels=4, channel_multipliers=(1, 2), blocks_per_level=2, groups=2)

OPTIONS = {
    "published": {},
    "attention": {"attention_factors": (2, 4), "attention_heads": 2, "up_attention_heads": 1, "middle_attention": True},
    "scaled": {"scale_shift_norm": True, "blocks_per_level": 3},
}


def parameter_shapes(network: WaveletUNet, x_t=X_T):
    return jax.eval_shape(network.init, jax.random.key(0), x_t, T[: len(x_t)])


@pytest.mark.parametrize(
    ("multipliers", "parameters"), [((1, 2, 2, 4, 4), 89_706_056), ((1, 2, 2, 4, 4, 4), 125_499_720)]
)
def test_published_sizes(multipliers, parameters):
    shapes = parameter_shapes(WaveletUNet(8, channel_multipliers=multipliers), np.zeros((1, 64, 64, 64, 8)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == parameters


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_lowering_fold_and_remat_change_neither_parameters_nor_results(options):
    network = SMALL.clone(**options)
    other = network.clone(lowering="planes", fold=(4, 2, 1), remat=(True, False, True))
    assert jax.tree.map(jnp.shape, parameter_shapes(other)) == jax.tree.map(jnp.shape, parameter_shapes(network))
    params = randomized(parameter_shapes(network))
    expected, result = (jax.jit(each.apply)(params, X_T, T) for each in (network, other))
    assert expected.shape == (*X_T.shape[:4], 5)
    assert 0.1 < jnp.std(expected) < 1000
    np.testing.assert_allclose(result, expected, atol=2e-5 * jnp.std(expected), rtol=1e-4)


def test_remat_gives_the_same_gradients_dropout_included():
    network = SMALL.clone(dropout=0.3, channel_multipliers=(1,), blocks_per_level=1)
    params = randomized(parameter_shapes(network))

    def gradient(network):
        def loss(params):
            return jnp.mean(network.apply(params, X_T, T, train=True, rngs={"dropout": jax.random.key(0)}) ** 2)

        return jax.jit(jax.grad(loss))(params)

    expected, recomputed = gradient(network), gradient(network.clone(remat=True))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(recomputed), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_attention_takes_part():
    """On the way down, at the bottom and on the way up, each by itself."""
    network = SMALL.clone(**OPTIONS["attention"])
    params = randomized(parameter_shapes(network))
    apply = jax.jit(network.apply)
    expected = apply(params, X_T, T)
    names = {"down_1_attention_1", "middle_attention", "up_1_attention_0", "up_0_attention_1"}
    assert names <= params["params"].keys()
    for name in names:
        silent = jax.tree.map(jnp.zeros_like, params["params"][name]["output"])
        changed = {"params": params["params"] | {name: params["params"][name] | {"output": silent}}}
        assert jnp.abs(apply(changed, X_T, T) - expected).max() > 1e-3, name


def test_bfloat16_is_close_and_gives_float32():
    params = randomized(parameter_shapes(SMALL))
    expected = jax.jit(SMALL.apply)(params, X_T, T)
    half = SMALL.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameter_shapes(half))} == {jnp.dtype("float32")}
    result = jax.jit(half.apply)(params, X_T, T)
    assert result.dtype == jnp.float32
    assert 0 < jnp.abs(result - expected).mean() < 0.05 * jnp.std(expected)


def test_size_multiple():
    """Every level halves, the last too."""
    assert SMALL.size_multiple == (4, 4, 4)
    assert WaveletUNet(8).size_multiple == (32, 32, 32)
    assert SMALL.clone(fold=(1, 1, 3)).size_multiple == (4, 4, 12)


def test_refuses_what_cannot_work():
    with pytest.raises(ValueError, match=r"\(1, 4, 6, 8, 8\).*2 levels.*\(4, 4, 4\)"):
        SMALL.init(jax.random.key(0), np.zeros((1, 4, 6, 8, 8)), T[:1])
    with pytest.raises(ValueError, match="blocks_per_level 1: .* choose 2 or more"):
        SMALL.clone(blocks_per_level=1).init(jax.random.key(0), X_T, T)


def test_a_mesh_changes_nothing_and_gathers_what_is_listed():
    network = SMALL.clone(out_channels=8, channel_multipliers=(1,), blocks_per_level=1, attention_factors=(2,))
    x_t = np.random.default_rng(0).standard_normal((1, 8, 8, 8, 8)).astype(np.float32)
    params = randomized(parameter_shapes(network, x_t))

    def loss_and_gradients(params, x_t):
        return jax.value_and_grad(lambda params: jnp.mean(network.apply(params, x_t, T[:1]) ** 2))(params)

    results = []
    for depth, height in ((1, 1), (4, 2)):
        mesh = make_mesh({"data": 1, "fsdp": 1, "depth": depth, "height": height})
        step = jax.jit(on_mesh(loss_and_gradients, mesh), in_shardings=(replicated(mesh), batch_sharding(mesh, x_t)))
        compiled = step.lower(params, x_t).compile()
        results.append(jax.device_get(compiled(params, x_t)))
    found = re.findall(r"= (.*?) (?:all-gather|all-to-all)(?:-start)?\(", compiled.as_text())
    shapes = [tuple(map(int, shape.split(","))) for line in found for shape in re.findall(r"\[([\d,]+)\]", line)]
    # Each of the list once forward and once backward.
    assert (
        0
        < 4 * sum(map(math.prod, shapes))
        <= 2 * sum(gathered_by_wavelet_unet(network, x_t.shape[:4], mesh.shape).values())
    )
    for expected, got in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_gathers():
    """Of the published network at 256^3: nothing where each shard of the bottom has two planes, else what comes to it."""
    network, shape = WaveletUNet(8, channel_multipliers=(1, 2, 2, 4, 4, 4)), (1, 128, 128, 128)
    mesh = {"data": 1, "fsdp": 1, "depth": 2, "height": 1}
    assert gathered_by_wavelet_unet(network, (1, 256, 128, 128), mesh) == {}
    bottom = 2 * 2 * 2 * 4
    assert gathered_by_wavelet_unet(network, shape, mesh) == {
        "down_5_resample": 9 * 256 * bottom,
        "down_5_pyramid": 8 * 256 * bottom,
    }
    attentive = network.clone(middle_attention=True, attention_factors=(32,), dtype=jnp.bfloat16)
    # Keys and values of 4^3 voxels; the last block on the way up is applied twice.
    attended = 2 * 256 * 4**3 * 2
    assert gathered_by_wavelet_unet(attentive, (1, 128, 128, 128), mesh) == {
        "down_5_attention_0": attended,
        "down_5_attention_1": attended,
        "up_4_attention_0": attended,
        "up_4_attention_1": 2 * attended,
        "down_5_resample": 9 * 256 * bottom // 2,
        "down_5_pyramid": 8 * 256 * bottom // 2,
    }
