import numpy as np

from medjax.metrics.consistency import adjacent_correlations, mean_by_slice


def test_is_pearsons_correlation_along_each_axis():
    volumes = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    for axis, (first, second) in enumerate(
        [((1, 0), (1, 1)), ((1, slice(None), 2), (1, slice(None), 3)), (None, None)]
    ):
        found = adjacent_correlations(volumes, axis)
        assert found.shape == (2, volumes.shape[axis + 1] - 1)
        if first:
            expected = np.corrcoef(volumes[first].ravel(), volumes[second].ravel())[0, 1]
            np.testing.assert_allclose(found[1, 0 if axis == 0 else 2], expected, rtol=1e-6)
    np.testing.assert_allclose(adjacent_correlations(volumes[..., None], 2), adjacent_correlations(volumes, 2))


def test_the_same_slice_again_correlates_fully_and_an_empty_one_not_at_all():
    volume = np.repeat(np.random.default_rng(0).normal(size=(1, 1, 4, 4)), 4, axis=1)
    volume[0, 3] = -1.0
    found = adjacent_correlations(volume * 5 + 1, 0)
    np.testing.assert_allclose(found[0, :2], 1.0)
    assert np.isnan(found[0, 2])


def test_means_leave_out_what_is_not_known():
    np.testing.assert_allclose(mean_by_slice(np.array([[1.0, np.nan, np.nan], [0.0, 0.5, np.nan]])), [0.5, 0.5, np.nan])
