import jax
import numpy as np
import pytest

from medjax.diffusion.thresholds import quantile_above_1, threshold_dynamically

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.995, 1.0])
def test_quantiles_are_numpys_or_1(share):
    values = np.abs(GENERATOR.standard_normal((4, 7, 5, 3))) * np.array([0.2, 1, 3, 200]).reshape(4, 1, 1, 1)
    values[2:] = np.ceil(values[2:])  # many are equal
    values = values.astype(np.float32)
    expected = np.maximum(np.quantile(values.reshape(4, -1), share, axis=1), 1)
    np.testing.assert_allclose(jax.jit(quantile_above_1, static_argnums=1)(values, share), expected, rtol=2e-6)


def test_within_its_bounds_nothing_changes():
    x = GENERATOR.uniform(-1, 1, (2, 4, 4, 4, 2)).astype(np.float32)
    x[1] *= 3
    found = threshold_dynamically(x, 0.9)
    np.testing.assert_array_equal(found[0], x[0])
    limit = np.quantile(np.abs(x[1]), 0.9)
    np.testing.assert_allclose(found[1], np.clip(x[1], -limit, limit) / limit, atol=1e-6)
