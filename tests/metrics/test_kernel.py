import numpy as np
import pytest

from medjax.metrics.kernel import kernel_distance

RNG = np.random.default_rng(0)


def test_by_the_definition():
    a, b = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)) + 1

    def kernel(x, y):
        return (np.dot(x, y) / 3 + 1) ** 3

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    expected = sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])
    found = kernel_distance(a, b)
    np.testing.assert_allclose(found.value, expected, rtol=1e-12)
    assert (found.n_real, found.n_generated) == (5, 4)


@pytest.mark.parametrize("counts", [(2, 2), (2, 9), (30, 20)])
def test_is_unbiased(counts):
    """0 on average for two sets of one distribution, however small."""
    n, m = counts
    values = [kernel_distance(RNG.normal(size=(n, 4)), RNG.normal(size=(m, 4))).value for _ in range(3000)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(len(values))


def test_standard_error_is_the_scatter_over_new_sets():
    sets = [kernel_distance(RNG.normal(size=(40, 4)), 0.5 + RNG.normal(size=(30, 4))) for _ in range(800)]
    errors, scatter = [found.error for found in sets], np.std([found.value for found in sets])
    np.testing.assert_allclose(np.sqrt(np.mean(np.square(errors))), scatter, rtol=0.15)


def test_the_error_is_the_jackknife_s():
    a, b = RNG.normal(size=(6, 3)), RNG.normal(size=(5, 3)) + 1
    expected = 0.0
    for rows, other in ((a, b), (b, a)):
        n = len(rows)
        without = [kernel_distance(np.delete(rows, row, axis=0), other).value for row in range(n)]
        expected += (n - 1) * np.var(without)
    np.testing.assert_allclose(kernel_distance(a, b).error, np.sqrt(expected), rtol=1e-9)


@pytest.mark.parametrize(
    ("move", "share"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.1)], ids=["equal", "moved", "a rare kind is missing"]
)
def test_the_interval_holds_the_distance(move, share):
    """Of 200 sets 180 or more, also where one in ten real volumes is of a kind that the generated ones lack."""

    def draw(rng, n):
        real = rng.standard_normal((n, 16))
        real[:, 0] += 8 * (rng.random(n) < share)
        return real, rng.standard_normal((n, 16)) + move

    rng, true = np.random.default_rng(1), 0.0
    if move or share:
        true = np.mean([kernel_distance(*draw(rng, 3000)).value for _ in range(4)])
    found = [kernel_distance(*draw(rng, 100)) for _ in range(200)]
    assert sum(each.low <= true <= each.high for each in found) >= 180


@pytest.mark.parametrize(("a", "b"), [((1, 3), (4, 3)), ((4, 3), (1, 3)), ((4, 3), (4, 2)), ((4,), (4,))])
def test_refuses(a, b):
    with pytest.raises(ValueError, match="n and m of 2 or more"):
        kernel_distance(np.zeros(a), np.zeros(b))
    with pytest.raises(ValueError, match="1 of 3 rows of features are not finite"):
        kernel_distance(np.zeros((3, 2)), np.array([[0, 0], [1, np.nan], [0, 1]]))
