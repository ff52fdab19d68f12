import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.fold import refold
from medjax.layers.normalization import GroupNorm
from tolerance import assert_equal_but_for_rounding


def volume(offset=0.0):
    scales = np.array([1, 2, 3, 4, 5, 6])
    return (offset + np.random.default_rng(0).standard_normal((2, 4, 4, 8, 6)) * scales).astype(np.float32)


def by_definition(x, groups, epsilon, scale, bias):
    grouped = x.astype(np.float64).reshape(*x.shape[:4], groups, -1)
    mean, variance = (f(grouped, axis=(1, 2, 3, 5), keepdims=True) for f in (np.mean, np.var))
    return ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * scale + bias


@pytest.mark.parametrize("fold", [1, 2, 8])
@pytest.mark.parametrize(("groups", "epsilon"), [(1, 1e-5), (3, 1e-2), (6, 1e-5)])
def test_group_norm(fold, groups, epsilon):
    x, scale, bias = volume(), np.arange(1.0, 7.0), np.arange(6.0)
    params = {"params": {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}}
    y = GroupNorm(groups, epsilon, fold).apply(params, refold(jnp.asarray(x), 1, fold))
    assert_equal_but_for_rounding(refold(y, fold, 1), by_definition(x, groups, epsilon, scale, bias))


def test_survives_a_large_mean():
    x = volume(offset=3000.0)
    y, _ = GroupNorm(3).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, by_definition(x, 3, 1e-5, 1.0, 0.0), atol=1e-3)


def test_statistics_are_float32_whatever_the_input():
    x = jnp.asarray(volume(), jnp.bfloat16)
    y, params = GroupNorm(3).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    exact, _ = GroupNorm(3).init_with_output(jax.random.key(0), x.astype(jnp.float32))
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("value", [0.0, 1.0, -300.0, 3e4])
@pytest.mark.parametrize("fold", [1, 2])
def test_constant_input_becomes_the_bias(dtype, value, fold):
    """There is nothing to divide by but epsilon; of gradients too all are finite."""
    bias = jnp.arange(6.0)
    params = {"params": {"scale": jnp.full(6, 2.0), "bias": bias}}
    x = jnp.full((2, 4, 4, 8 // fold, 6 * fold), value, dtype)
    y = GroupNorm(3, fold=fold).apply(params, x)
    assert y.dtype == dtype
    expected = np.broadcast_to(np.tile(bias, fold), x.shape)
    # Of float32's rounding of the mean, divided by sqrt(epsilon).
    np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=4 * abs(value) * 2**-24 / 1e-5**0.5 + 1e-6)

    def loss(params, x):
        return (GroupNorm(3, fold=fold).apply(params, x).astype(jnp.float32) ** 2).sum()

    by_params, by_x = jax.grad(loss, argnums=(0, 1))(params, x)
    assert all(np.isfinite(leaf.astype(jnp.float32)).all() for leaf in jax.tree.leaves((by_params, by_x)))


def test_refuses_channels_that_do_not_group():
    with pytest.raises(ValueError, match="6 channels in 4 groups"):
        GroupNorm(4).init(jax.random.key(0), volume())
