import itertools
import math

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax.metrics import ms_ssim_pairs
from medjax.metrics.ms_ssim_pairs import choose_pairs, mean_ms_ssim, standard_error
from rowwise_ms_ssim import ms_ssim
from tolerance import assert_equal_but_for_rounding

RNG = np.random.default_rng(0)
# Of one cube with noise, so that some are alike.
VOLUMES = np.clip(RNG.normal(size=(1, 14, 15, 16, 1)) + 0.5 * RNG.normal(size=(9, 14, 15, 16, 1)), -1, 1).astype("f4")
EVERY = np.array(list(itertools.combinations(range(9), 2)))


def test_all_pairs():
    found = mean_ms_ssim(VOLUMES)
    expected = ms_ssim(VOLUMES[EVERY[:, 0]], VOLUMES[EVERY[:, 1]])
    np.testing.assert_allclose(found.mean, np.mean(expected), rtol=1e-5)
    assert (found.pairs, found.exact, found.n, found.scales) == (36, True, 9, 2)


def test_in_tiles_and_on_a_mesh(monkeypatch):
    whole = ms_ssim_pairs.similarities(VOLUMES, EVERY)
    mesh = jax.make_mesh((4, 2), ("data", "depth"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    assert_equal_but_for_rounding(ms_ssim_pairs.similarities(VOLUMES, EVERY, sharding), whole)
    monkeypatch.setattr(ms_ssim_pairs, "RESIDENT_VOXELS", 4 * VOLUMES[0].size)
    assert_equal_but_for_rounding(ms_ssim_pairs.similarities(VOLUMES, EVERY), whole)


@pytest.mark.parametrize(("n", "count"), [(9, 10), (10, 40), (200, 1), (6, 12)])
def test_sampled_pairs_take_each_volume_equally_often(n, count):
    pairs = choose_pairs(n, count, seed=3)
    assert len(pairs) == n * math.ceil(count / n)
    assert len({tuple(pair) for pair in pairs}) == len(pairs)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    np.testing.assert_array_equal(np.bincount(pairs.ravel(), minlength=n), 2 * math.ceil(count / n))
    np.testing.assert_array_equal(pairs, choose_pairs(n, count, seed=3))
    assert (pairs != choose_pairs(n, count, seed=4)).any()


def test_too_many_pairs_are_all_pairs():
    for count in (None, 37, 10**6):
        np.testing.assert_array_equal(choose_pairs(9, count, seed=0), EVERY)


@pytest.mark.parametrize("count", [None, 60])
def test_standard_error_is_the_scatter_over_new_sets(count):
    """Of x_i + x_j + noise, of which the first two terms are shared."""
    n, sets, pairs = 20, 2000, choose_pairs(20, count, seed=0)
    of_volumes = RNG.normal(size=(sets, n))
    values = of_volumes[:, pairs].sum(axis=-1) + 2 * RNG.normal(size=(sets, len(pairs)))
    errors = np.array([standard_error(row, pairs, n) for row in values])
    scatter = values.mean(axis=1).std()
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), scatter, rtol=0.1)
    assert values.std() / np.sqrt(len(pairs)) < 0.9 * scatter  # as if they were independent


def test_few_volumes():
    assert mean_ms_ssim(VOLUMES[:2]).error is None
    with pytest.raises(ValueError, match="two or more"):
        mean_ms_ssim(VOLUMES[:1])
    with pytest.raises(ValueError, match="not finite"):
        mean_ms_ssim(np.where(np.arange(3).reshape(3, 1, 1, 1, 1) == 1, np.nan, VOLUMES[:3]))
