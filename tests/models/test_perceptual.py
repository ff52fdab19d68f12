import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.perceptual import LPIPS, SMALLEST_SLICE
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
