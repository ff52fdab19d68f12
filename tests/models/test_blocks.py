import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.conv import Conv
from medjax.layers.normalization import GroupNorm
from medjax.layers.resample import average_pool_2x, nearest_2x
from medjax.models.blocks import ResidualBlock
from tolerance import assert_equal_but_for_rounding

X = np.random.default_rng(0).standard_normal((2, 4, 4, 4, 4)).astype(np.float32)
EMBEDDING = np.random.default_rng(1).standard_normal((2, 10)).astype(np.float32)


def randomized(params, seed=2):
    """Random numbers for every parameter: fresh networks end in zeros."""
    leaves, tree = jax.tree.flatten(params)
    generator = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [generator.standard_normal(leaf.shape).astype(np.float32) / 3 for leaf in leaves])


def by_definition(params, features, resample, scale_shift_norm, groups):
    """The block in the order of the paper's implementation."""

    def apply(name, module, x):
        return module.apply({"params": params["params"][name]}, x)

    norm, resampled = GroupNorm(groups), {"down": average_pool_2x, "up": nearest_2x, None: lambda x: x}[resample]
    h = apply("conv_1", Conv(features), resampled(jax.nn.silu(apply("norm_1", norm, X))))
    projection = params["params"]["time_projection"]
    time = (jax.nn.silu(EMBEDDING) @ projection["kernel"] + projection["bias"])[:, None, None, None]
    if scale_shift_norm:
        h = apply("norm_2", norm, h) * (1 + time[..., :features]) + time[..., features:]
    else:
        h = apply("norm_2", norm, h + time)
    h = apply("conv_2", Conv(features), jax.nn.silu(h))
    x = resampled(X)
    return h + (x if features == 4 else apply("skip_conv", Conv(features, kernel_size=(1, 1, 1)), x))


@pytest.mark.parametrize(
    ("features", "resample", "scale_shift_norm"),
    [(4, None, False), (6, None, True), (4, "down", True), (6, "down", False), (6, "up", True), (4, "up", False)],
)
def test_residual_block(features, resample, scale_shift_norm):
    block = ResidualBlock(features, resample, scale_shift_norm=scale_shift_norm, groups=2)
    params = randomized(block.init(jax.random.key(0), X, EMBEDDING))
    expected = by_definition(params, features, resample, scale_shift_norm, groups=2)
    assert_equal_but_for_rounding(block.apply(params, X, EMBEDDING), expected)


def test_starts_as_the_identity():
    y, _ = ResidualBlock(4, groups=2).init_with_output(jax.random.key(0), X, EMBEDDING)
    np.testing.assert_array_equal(y, X)


def test_drops_only_in_training():
    block = ResidualBlock(4, groups=2, dropout=0.5)
    params = randomized(block.init(jax.random.key(0), X, EMBEDDING))
    without = ResidualBlock(4, groups=2).apply(params, X, EMBEDDING)
    np.testing.assert_array_equal(block.apply(params, X, EMBEDDING), without)
    dropped = block.apply(params, X, EMBEDDING, train=True, rngs={"dropout": jax.random.key(0)})
    assert jnp.abs(dropped - without).max() > 0.1


def test_refuses():
    with pytest.raises(ValueError, match="'sideways'"):
        ResidualBlock(4, "sideways", groups=2).init(jax.random.key(0), X, EMBEDDING)
