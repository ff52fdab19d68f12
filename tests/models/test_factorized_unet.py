import json
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gathered import gathered_by_factorized_unet
from medjax.layers.conditions import Condition
from medjax.models.factorized_unet import FactorizedUNet
from medjax.runtime.mesh import batch_sharding, make_mesh, on_mesh, replicated

X_T = np.random.default_rng(0).standard_normal((2, 3, 4, 8, 3)).astype(np.float32)
T = np.array([3, 250])
SMALL = FactorizedUNet(5, 4, (1, 2), groups=2, attention_heads=2, attention_head_channels=4, first_kernel=3)
ONE_LEVEL = SMALL.clone(channel_multipliers=(2,))
PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "medical_state_dicts.json").read_text())


def parameter_shapes(network, x_t=X_T):
    return jax.eval_shape(network.init, jax.random.key(0), x_t, np.zeros(len(x_t), np.int32))


def randomized(shapes):
    """Random numbers of the size that PyTorch begins with, for every parameter; scales about 1."""
    generator = np.random.default_rng(2)

    def draw(path, leaf):
        name = path[-1].key
        spread = 1 / math.sqrt(math.prod(leaf.shape[:-1])) if len(leaf.shape) > 1 else 0.2
        return (generator.standard_normal(leaf.shape) * spread + (name == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.mark.parametrize("width", [16, 32, 64])
def test_published_sizes(width):
    shapes = parameter_shapes(FactorizedUNet(8, width), np.zeros((1, 4, 8, 8, 8)))
    published = PUBLISHED[f"unet3d_dim{width}"]["n_parameters"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == published


def test_lowering_changes_no_result():
    params = randomized(parameter_shapes(ONE_LEVEL))
    expected, result = (
        jax.jit(network.apply)(params, X_T, T) for network in (ONE_LEVEL, ONE_LEVEL.clone(lowering="stacked"))
    )
    assert 0.1 < jnp.std(expected) < 10
    np.testing.assert_allclose(result, expected, atol=2e-5, rtol=1e-4)


def test_remat_is_of_the_levels_that_it_names():
    def recomputed(remat) -> set[str]:
        """The layers whose activations are recomputed, by the names in the gradient's program."""
        network = SMALL.clone(remat=remat)
        params = randomized(parameter_shapes(network))
        loss = jax.grad(lambda params: jnp.mean(network.apply(params, X_T, T)))
        text = jax.jit(loss).lower(params).as_text(debug_info=True)
        return {name for name in params["params"] if f"rematted_computation/{name}/" in text}

    layers = {name for name in parameter_shapes(SMALL)["params"] if "block" in name or "attention" in name}
    lowest = {name for name in layers if name.startswith(("down_1", "middle", "up_1"))}
    assert recomputed(False) == set()
    assert recomputed((True, False)) == layers - lowest
    assert recomputed(True) == layers


def test_attention_along_depth_joins_slices_and_convolutions_do_not():
    """As far as the first attention: GroupNorm's statistics, too, are of all slices."""
    params = randomized(parameter_shapes(ONE_LEVEL))
    changed = X_T.copy()
    changed[:, 2] += 1
    seen = jax.jit(lambda x: ONE_LEVEL.apply(params, x, T, capture_intermediates=True)[1]["intermediates"])
    before, after = seen(X_T), seen(changed)
    convolved, attended = (
        [each[name]["__call__"][0][:, :2] for each in (before, after)]
        for name in ("input_conv", "input_depth_attention")
    )
    np.testing.assert_array_equal(*convolved)
    assert jnp.abs(attended[0] - attended[1]).max() > 1e-3
    without = parameter_shapes(ONE_LEVEL.clone(depth_attention=False))["params"]
    assert {name for name in params["params"] if "depth" in name} == params["params"].keys() - without.keys()


def test_depth_is_kept_and_may_be_any_number():
    """Latents such as 8 x 64 x 64 with four levels: only H and W are halved."""
    network = SMALL.clone(channel_multipliers=(1, 2, 4, 8))
    assert network.size_multiple == (1, 8, 8)
    y = jax.eval_shape(
        network.apply, parameter_shapes(network, np.zeros((1, 3, 16, 8, 3))), np.zeros((1, 3, 16, 8, 3)), T[:1]
    )
    assert (y.shape, y.dtype) == ((1, 3, 16, 8, 5), jnp.float32)
    with pytest.raises(ValueError, match=r"\(1, 3, 12, 8, 3\).*4 levels.*\(1, 8, 8\)"):
        jax.eval_shape(network.init, jax.random.key(0), np.zeros((1, 3, 12, 8, 3)), T[:1])
    with pytest.raises(ValueError, match="'full'"):
        jax.eval_shape(SMALL.clone(spatial_attention="full").init, jax.random.key(0), X_T, T)


def test_labels_and_times_are_told():
    network = ONE_LEVEL.clone(conditions=(Condition("class", "class", 3),))
    params = randomized(parameter_shapes(network))
    apply = jax.jit(lambda t, label: network.apply(params, X_T, t, {"class": label}))
    unknown, label = apply(T, np.array([-1, -1], np.int32)), np.array([2, -1], np.int32)
    assert jnp.abs(apply(T + 20, label) - apply(T, label)).max() > 1e-3
    told = apply(T, label)
    np.testing.assert_allclose(told[1], unknown[1], rtol=1e-5, atol=1e-5)
    assert jnp.abs(told[0] - unknown[0]).max() > 1e-3


def test_bfloat16_is_close_and_gives_float32():
    params = randomized(parameter_shapes(ONE_LEVEL))
    half = ONE_LEVEL.clone(dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameter_shapes(half))} == {jnp.dtype("float32")}
    expected, result = (jax.jit(network.apply)(params, X_T, T) for network in (ONE_LEVEL, half))
    assert result.dtype == jnp.float32
    assert 0 < jnp.abs(result - expected).mean() < 0.05 * jnp.std(expected)


def test_a_mesh_changes_nothing_and_gathers_what_is_listed():
    network = ONE_LEVEL
    x_t = np.random.default_rng(0).standard_normal((4, 4, 4, 4, 3)).astype(np.float32)
    params, t = randomized(parameter_shapes(network)), np.array([3, 250, 0, 299])

    def loss_and_gradients(params, x_t):
        return jax.value_and_grad(lambda params: jnp.mean(network.apply(params, x_t, t) ** 2))(params)

    results = []
    for ways in (1, 2):
        mesh = make_mesh({"data": ways, "fsdp": 1, "depth": ways, "height": ways})
        step = jax.jit(on_mesh(loss_and_gradients, mesh), in_shardings=(replicated(mesh), batch_sharding(mesh, x_t)))
        compiled = step.lower(params, x_t).compile()
        results.append(jax.device_get(compiled(params, x_t)))
    found = re.findall(r"= (.*?) (?:all-gather|all-to-all)(?:-start)?\(", compiled.as_text())
    shapes = [tuple(map(int, shape.split(","))) for line in found for shape in re.findall(r"\[([\d,]+)\]", line)]
    # Each of the list once forward and once backward.
    assert (
        0
        < 4 * sum(map(math.prod, shapes))
        <= 2 * sum(gathered_by_factorized_unet(network, x_t.shape[:4], mesh.shape).values())
    )
    for expected, got in zip(*map(jax.tree.leaves, results), strict=True):
        assert np.linalg.norm(got - expected) <= 1e-5 * max(np.linalg.norm(expected), 1e-3)


def test_gathers():
    """Of the published network on latents of 32^3, two devices along each axis."""
    network, shape = FactorizedUNet(8), (2, 32, 32, 32)
    assert gathered_by_factorized_unet(network, shape, {"data": 2, "fsdp": 1, "depth": 1, "height": 1}) == {}
    width = 8 * 32 * 4 * 2  # bytes of a key and a value
    depth = gathered_by_factorized_unet(network, shape, {"data": 1, "fsdp": 1, "depth": 2, "height": 1})
    assert len(depth) == 10
    assert depth["input_depth_attention"] == 2 * 32**3 * width
    assert depth["middle_depth_attention"] == 2 * 32 * 4 * 4 * width
    both = gathered_by_factorized_unet(network, shape, {"data": 1, "fsdp": 1, "depth": 2, "height": 2})
    assert both["up_0_depth_attention"] == depth["up_0_depth_attention"] / 2
    assert both["middle_slice_attention"] == 2 * 16 * 4 * 4 * width
    wide = gathered_by_factorized_unet(network, shape, {"data": 1, "fsdp": 1, "depth": 1, "height": 4})
    # One plane a shard would be too few.
    assert wide == {"down_2_resample": 2 * 32 * 4 * 4 * 128 * 4, "up_3_resample": 2 * 32 * 8 * 8 * 128 * 4 // 2}
