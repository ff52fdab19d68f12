import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.fold import refold
from medjax.layers.resample import average_pool_2x, nearest_2x
from tolerance import assert_equal_but_for_rounding

X = np.random.default_rng(0).standard_normal((2, 4, 6, 8, 3)).astype(np.float32)


@pytest.mark.parametrize(("fold", "out_fold"), [(1, 1), (2, 1), (4, 2), (2, 4), (1, 2)])
@pytest.mark.parametrize("keep_depth", [False, True])
def test_average_pool(keep_depth, fold, out_fold):
    depth = 1 if keep_depth else 2
    parts = [X[:, k::depth, j::2, i::2] for k in range(depth) for j in range(2) for i in range(2)]
    pooled = average_pool_2x(refold(jnp.asarray(X), 1, fold), keep_depth, fold, out_fold)
    assert_equal_but_for_rounding(refold(pooled, out_fold, 1), np.mean(parts, axis=0), units=16)


@pytest.mark.parametrize(("fold", "out_fold"), [(1, 1), (2, 1), (4, 2), (2, 4), (1, 2)])
@pytest.mark.parametrize("keep_depth", [False, True])
def test_nearest(keep_depth, fold, out_fold):
    expected = X if keep_depth else np.repeat(X, 2, axis=1)
    expected = np.repeat(np.repeat(expected, 2, axis=2), 2, axis=3)
    doubled = nearest_2x(refold(jnp.asarray(X), 1, fold), keep_depth, fold, out_fold)
    np.testing.assert_array_equal(refold(doubled, out_fold, 1), expected)
