import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medjax.models.perceptual import LPIPS, SMALLEST_SLICE, max_pool
from test_blocks import randomized

EDGE = SMALLEST_SLICE


@pytest.fixture(scope="module")
def params():
    zeros = jnp.zeros((1, EDGE, EDGE, 1))
    shapes = jax.eval_shape(LPIPS().init, jax.random.key(0), zeros, zeros)
    params = randomized(shapes)
    return params | {"params": {k: jnp.abs(v) if "linear" in k else v for k, v in params["params"].items()}}


def slices(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (2, EDGE, EDGE, 1)).astype("f4")


def test_is_a_distance(params):
    distance = jax.jit(LPIPS().apply)
    a, b = slices(0), slices(1)
    np.testing.assert_allclose(distance(params, a, a), 0, atol=1e-12)
    far = distance(params, a, b)
    assert (far > 0).all()
    np.testing.assert_allclose(distance(params, b, a), far, rtol=1e-5)
    assert (distance(params, a, 0.9 * a + 0.1 * b) < far).all()


def test_its_gradient_is_finite_where_nothing_is_seen(params):
    """Where no unit fires at a voxel, its features have no length."""
    dark = jax.tree.map(jnp.copy, params)
    dark["params"]["vgg"]["conv_0_1"]["bias"] = jnp.full((64,), -100.0)
    gradient = jax.jit(jax.grad(lambda b: LPIPS().apply(dark, slices(0), b).sum()))(slices(1))
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)], ids=["even", "odd", "one row"])
def test_max_pool_is_that_of_flax_and_its_gradient_goes_to_the_first_of_equals(size):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 3, (2, *size, 3)), jnp.float32)  # many are equal

    def published(x):
        return nn.max_pool(x, (2, 2), (2, 2))

    np.testing.assert_array_equal(max_pool(x), published(x))
    weights = jnp.asarray(rng.normal(size=published(x).shape), jnp.float32)
    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(weights * f(x)))(x) for f in (max_pool, published))
    np.testing.assert_array_equal(ours, theirs)


def test_max_pool_hides_no_nan():
    for place in np.ndindex(2, 2):
        x = np.zeros((1, 2, 2, 1), np.float32)
        x[0, place[0], place[1], 0] = np.nan
        assert jnp.isnan(max_pool(jnp.asarray(x))).all()


def test_its_gradient_is_lowered_to_operations_that_gpus_do_in_one_order(params):
    gradient = jax.jit(jax.grad(lambda b: LPIPS().apply(params, slices(0), b).sum()))
    text = gradient.lower(slices(1)).as_text()
    assert "stablehlo.convolution" in text
    assert "scatter" not in text  # neither select_and_scatter nor scatter
