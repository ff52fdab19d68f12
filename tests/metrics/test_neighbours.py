import numpy as np
import pytest

from medjax.metrics import neighbours as module
from medjax.metrics.neighbours import distances, neighbour_distances, neighbours

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(300, 6))


def test_by_hand():
    """On a line: balls of one neighbour around 0, 1 and 5 reach 1, 1 and 4; around 1.5, 9 and 10 they reach 7.5, 1 and 1."""
    real, generated = np.array([[0.0], [1.0], [5.0]]), np.array([[1.5], [9.0], [10.0]])
    np.testing.assert_array_equal(neighbour_distances(real, 1), [1, 1, 4])
    found = neighbours(real, generated, k=1)
    assert (found.precision, found.recall, found.k) == (2 / 3, 1.0, 1)
    np.testing.assert_allclose(found.density, (2 + 1) / 3)  # 1.5 is in the balls around 1 and 5, 9 in that around 5
    np.testing.assert_allclose(found.coverage, 2 / 3)


def test_of_one_distribution_all_are_near_1():
    found = neighbours(REAL, RNG.normal(size=(300, 6)))
    assert found.k == 5
    assert min(found.precision, found.recall, found.coverage) > 0.9
    assert abs(found.density - 1) < 0.1
    np.testing.assert_allclose(found.coverage, 1 - 2**-5, atol=0.03)


def test_a_collapsed_model():
    """Around three of the real volumes: precise, and nothing else."""
    found = neighbours(REAL, REAL[RNG.integers(3, size=300)] + 0.01 * RNG.normal(size=(300, 6)))
    assert found.precision > 0.9
    assert found.recall < 0.1
    assert found.coverage < 0.2


def test_a_model_that_misses():
    found = neighbours(REAL, RNG.normal(size=(300, 6)) + 6)
    assert max(found.precision, found.recall, found.density, found.coverage) < 0.05


def test_chunks_do_not_matter(monkeypatch):
    generated = RNG.normal(size=(50, 6))
    whole = neighbours(REAL, generated)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert neighbours(REAL, generated) == whole


def test_few_volumes():
    found = neighbours(REAL[:3], REAL[3:5])
    assert (found.k, found.n_real, found.n_generated) == (1, 3, 2)
    for real, generated, k, words in ((1, 3, 5, "2 or more"), (3, 1, 5, "2 or more"), (3, 3, 0, "1 neighbour or more")):
        with pytest.raises(ValueError, match=words):
            neighbours(REAL[:real], REAL[:generated], k)


def test_distances_far_from_the_origin():
    a, b = REAL[:20] + 1e5, REAL[20:50] + 1e5
    expected = np.linalg.norm(REAL[:20, None] - REAL[20:50], axis=-1)
    np.testing.assert_allclose(distances(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(np.diagonal(distances(a, a)), 0, atol=1e-6)
