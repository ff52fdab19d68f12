import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion.interpolation import lerp, slerp
from tolerance import assert_equal_but_for_rounding

A, B = jax.random.normal(jax.random.key(0), (2, 3, 8, 8, 8, 8))


def test_ends_are_reached():
    for way in (lerp, slerp):
        assert_equal_but_for_rounding(way(A, B, jnp.zeros(3)), A, units=16)
        assert_equal_but_for_rounding(way(A, B, jnp.ones(3)), B, units=16)


def test_noise_stays_noise():
    halfway = slerp(A, B, jnp.full(3, 0.5))
    np.testing.assert_allclose(halfway.std(axis=(1, 2, 3, 4)), 1, atol=0.05)
    assert np.all(lerp(A, B, jnp.full(3, 0.5)).std(axis=(1, 2, 3, 4)) < 0.8)


def test_equal_steps_are_equal_angles():
    points = slerp(jnp.repeat(A[:1], 5, axis=0), jnp.repeat(B[:1], 5, axis=0), jnp.linspace(0, 1, 5)).reshape(5, -1)
    points /= jnp.linalg.norm(points, axis=1, keepdims=True)
    angles = jnp.arccos(jnp.sum(points[1:] * points[:-1], axis=1))
    np.testing.assert_allclose(angles, angles[0], rtol=2e-2)


def test_between_the_same_there_is_nothing_else():
    np.testing.assert_allclose(slerp(A, A, jnp.array([0.0, 0.3, 1.0])), A, atol=2e-3)
