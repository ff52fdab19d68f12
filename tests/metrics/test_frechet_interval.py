import numpy as np
import pytest

from medjax.metrics.frechet import frechet_distance
from medjax.metrics.frechet_interval import _lengths, _weighted, estimate_frechet

RNG = np.random.default_rng(0)


def gaussians(n: int, m: int, deviations: np.ndarray, means: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Rows of a standard normal distribution and of another, and the distance between the two distributions."""
    f = len(deviations)
    true = np.sum((deviations - 1) ** 2) + np.sum(means**2)
    return RNG.normal(size=(n, f)), RNG.normal(size=(m, f)) * deviations + means, float(true)


@pytest.mark.parametrize(
    ("deviations", "means"),
    [(np.ones(8), np.zeros(8)), (np.linspace(0.5, 2, 8), np.zeros(8)), (np.ones(8), np.full(8, 0.3))],
    ids=["equal", "other covariance", "other mean"],
)
def test_the_interval_holds_the_distance_of_the_distributions(deviations, means):
    """95 times in 100, or more often where they are equal; that of 150 sets is at least 0.9 but for once in 300."""
    covered, biased = 0, 0
    for seed in range(150):
        a, b, true = gaussians(60, 50, deviations, means)
        found = estimate_frechet(a, b, resamples=40, seed=seed)
        covered += found.low <= true <= found.high
        biased += found.value > true
        assert found.value == pytest.approx(frechet_distance(a, b))
        assert found.extrapolated
    assert covered >= 0.9 * 150
    assert biased > 0.8 * 150  # what the interval is not around


def test_the_extrapolation_takes_the_bias_off():
    found = [estimate_frechet(*gaussians(100, 100, np.linspace(0.5, 2, 20), np.zeros(20))[:2], 20) for _ in range(40)]
    true = np.sum((np.linspace(0.5, 2, 20) - 1) ** 2)
    half, whole, infinite = (np.mean([getattr(x, name) for x in found]) for name in ("half", "value", "infinite"))
    assert half > whole > true
    np.testing.assert_allclose(infinite, true, rtol=0.05)
    np.testing.assert_allclose(half - whole, whole - true, rtol=0.15)


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_fewer_volumes_than_features_have_no_interval(shift):
    """No line leads from 40 volumes to the distance of distributions that fill 100 dimensions."""
    for _ in range(10):
        found = estimate_frechet(*gaussians(40, 40, np.ones(100), np.full(100, shift))[:2], 40)
        assert (found.extrapolated, found.infinite, found.low, found.high) == (False, None, None, None)
        assert found.half > found.value > 0


SLOW_DECAYS = [  # features, the power at which their deviations decay, n and m, and how the second distribution differs
    pytest.param(480, 0.7, (38, 16), 1.0, 0.0, id="480 features, i^-0.7"),
    pytest.param(480, 0.7, (20, 16), 1.0, 0.0, id="480 features, i^-0.7, fewer volumes"),
    pytest.param(480, 1.0, (32, 32), 1.0, 0.0, id="480 features, 1/i"),
    pytest.param(480, 1.0, (38, 16), 1.0, 0.0, id="480 features, 1/i, unequal sets"),
    pytest.param(96, 0.7, (32, 16), 1.2, 0.3, id="96 features, i^-0.7, scaled and moved"),
    pytest.param(96, 1.5, (40, 40), 1.0, 0.0, id="96 features, i^-1.5"),
    pytest.param(96, 2.0, (40, 40), 1.0, 0.0, id="96 features, i^-2"),
    pytest.param(96, 2.0, (40, 40), 1.2, 0.3, id="96 features, i^-2, scaled and moved"),
]


@pytest.mark.parametrize(("f", "p", "counts", "scale", "move"), SLOW_DECAYS)
def test_an_interval_that_is_told_holds_the_distance(f, p, counts, scale, move):
    """As features of trained networks decay, slowly: 93 times in 100, of which 40 sets may miss seven; or none is told."""
    rng, deviations = np.random.default_rng(0), np.arange(1, f + 1.0) ** -p
    true, missed = np.sum(deviations**2) * ((scale - 1) ** 2 + move**2), 0
    for seed in range(40):
        a, b = (rng.standard_normal((n, f)) for n in counts)
        found = estimate_frechet(a * deviations, (scale * b + move) * deviations, 30, seed)
        missed += found.extrapolated and not found.low <= true <= found.high
    assert missed <= 7


def test_the_p_value_is_that_of_a_permutation_test():
    """Of one distribution it is below 0.05 one time in 20, whatever n and f; plain differences are found."""
    rng, deviations = np.random.default_rng(0), np.arange(1, 201.0) ** -0.7
    values = [
        estimate_frechet(*(rng.standard_normal((n, 200)) * deviations for n in (20, 12)), 2).p_value for _ in range(100)
    ]
    assert np.mean(np.array(values) <= 0.05) <= 0.12
    assert 0.35 < np.mean(values) < 0.65
    a, b = (rng.standard_normal((n, 200)) * deviations for n in (20, 12))
    found = estimate_frechet(a, 1.5 * b + 0.5, 2)
    assert found.p_value == 1 / 200
    assert found.value > 1.5 * found.shuffled


def test_few_volumes():
    a, b, _ = gaussians(7, 7, np.ones(3), np.zeros(3))
    found = estimate_frechet(a[:3], b)
    assert (found.half, found.infinite, found.low, found.high) == (None,) * 4
    assert (found.n_real, found.n_generated, found.extrapolated) == (3, 7, False)
    np.testing.assert_allclose(found.value, frechet_distance(a[:3], b))
    for n in (4, 7):
        assert not estimate_frechet(a[:n], b).extrapolated
    with pytest.raises(ValueError, match="2 or more"):
        estimate_frechet(a[:1], b)


def test_one_set_twice_and_a_seed():
    a, b, _ = gaussians(40, 40, np.ones(3), np.ones(3))
    found = estimate_frechet(a, a)
    assert found.value < 1e-9
    assert (found.low, found.p_value) == (0, 1)
    assert estimate_frechet(a, b, 20, seed=1) == estimate_frechet(a, b, 20, seed=1)
    assert estimate_frechet(a, b, 20, seed=1) != estimate_frechet(a, b, 20, seed=2)
    shifted = estimate_frechet(a + 1000, b + 1000, 20, seed=1)
    np.testing.assert_allclose(shifted.infinite, estimate_frechet(a, b, 20, seed=1).infinite, rtol=1e-6)


@pytest.mark.parametrize("f", [4, 30])
def test_influence_of_a_row(f):
    """Is the derivative of the distance by the row's weight."""
    a, b, _ = gaussians(12, 12, np.linspace(0.5, 2, f), np.full(f, 0.3))
    flat = np.full(12, 1 / 12)
    middle, (of_a, of_b) = _weighted(a, b, [flat, flat])
    squares = np.sum((a.mean(axis=0) - b.mean(axis=0)) ** 2)  # the rest is proportional to covariances, over n here
    np.testing.assert_allclose(middle, squares + (frechet_distance(a, b) - squares) * 11 / 12, rtol=1e-10)
    for row in (0, 7):
        step = 1e-5 * np.eye(12)[row]
        by_a = (_weighted(a, b, [flat + step, flat])[0] - _weighted(a, b, [flat - step, flat])[0]) / 2e-5
        by_b = (_weighted(a, b, [flat, flat + step])[0] - _weighted(a, b, [flat, flat - step])[0]) / 2e-5
        np.testing.assert_allclose([of_a[row], of_b[row]], [by_a, by_b], rtol=1e-4)


def test_ends_of_a_skewed_estimate():
    """Of means alone the distance is the square of a normal variable: its root has an interval that is known."""
    row = RNG.normal(size=100)
    row = np.concatenate([row, -row])  # no skewness of its own
    a = (row / row.std())[:, None]
    distance, error = 0.25, np.sqrt(2 / 200)  # of the means, and that of their difference
    below, above = _lengths(a, a + np.sqrt(distance), 1.96)
    reach = 2 * np.sqrt(distance) * error  # a standard error of the distance
    expected = (np.sqrt(distance) + np.array([-1.96, 1.96]) * error) ** 2 - distance
    np.testing.assert_allclose([-below * reach, above * reach], expected + error**2, rtol=1e-3)
