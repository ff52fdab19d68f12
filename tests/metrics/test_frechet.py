import numpy as np
import pytest

from medjax.metrics.frechet import frechet_distance

RNG = np.random.default_rng(0)


def test_of_gaussians_whose_distance_is_known():
    """Independent features: each adds (mean difference)^2 + (deviation difference)^2."""
    rows = RNG.normal(size=(500, 4))
    rows = np.linalg.qr(rows - rows.mean(axis=0))[0] * np.sqrt(499)  # covariance exactly 1, mean exactly 0
    deviations, means = np.array([1.0, 2.0, 0.5, 3.0]), np.array([0.0, 1.0, -2.0, 0.5])
    expected = np.sum((deviations - 1) ** 2) + np.sum(means**2)
    np.testing.assert_allclose(frechet_distance(rows, rows * deviations + means), expected, rtol=1e-10)


def test_fewer_volumes_than_features():
    """Against the definition, with a root by eigenvalues, in the space that the rows span."""
    a, b = RNG.normal(size=(5, 40)), RNG.normal(size=(7, 40)) * 2 + 1
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(cov_a @ cov_b).real, 0)).sum()
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-10)


def test_is_zero_for_the_same_set_in_any_order():
    a = RNG.normal(size=(20, 300)).astype(np.float32)
    np.testing.assert_allclose(frechet_distance(a, RNG.permutation(a)), 0, atol=1e-9)


@pytest.mark.parametrize(("a", "b"), [((1, 3), (4, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_refuses(a, b):
    with pytest.raises(ValueError, match="give \\[n, f\\] and \\[m, f\\]"):
        frechet_distance(np.zeros(a), np.zeros(b))
