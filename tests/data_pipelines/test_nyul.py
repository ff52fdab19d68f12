import numpy as np
import pytest

from data_pipelines import nyul

SHAPE = (20, 22, 24)


def scan(seed, gain=1.0, offset=0.0, gamma=1.0):
    """Three tissues in a background of 0, on a scanner's scale of its own."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet([40, 60, 60])
    tissue = rng.choice([300.0, 600.0, 900.0], SHAPE, p=share) + rng.normal(0, 25, SHAPE)
    inside = np.linalg.norm(np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2, axis=-1).T < 9
    return np.where(inside, 1000 * (tissue / 1000) ** gamma * gain + offset, offset).astype(np.float32)


def test_landmarks_are_percentiles_of_what_is_above_the_mean():
    array = np.r_[np.zeros(1001), np.arange(1000.0, 2001.0)].reshape(2, 7, 143)
    np.testing.assert_allclose(nyul.landmarks(array), 1000 + 10 * np.array(nyul.PERCENTILES))


def test_the_scale_is_the_mean_of_landmarks_from_0_to_1_in_whatever_order():
    one, two = np.linspace(100, 300, 11), np.linspace(0, 1, 11) ** 2 * 50
    scale = nyul.standard_scale([one, two])
    np.testing.assert_allclose(scale, (np.linspace(0, 1, 11) + np.linspace(0, 1, 11) ** 2) / 2)
    found = [nyul.landmarks(scan(n)) for n in range(9)]
    np.testing.assert_array_equal(nyul.standard_scale(found), nyul.standard_scale(found[::-1]))
    np.testing.assert_array_equal(nyul.standard_scale([one, two, np.full(11, 7.0)]), scale)
    with pytest.raises(ValueError, match="no scan"):
        nyul.standard_scale([np.full(11, 7.0)])


def test_landmarks_come_to_lie_on_the_scale_and_what_is_between_and_beyond_on_lines():
    found, scale = np.linspace(100, 200, 11), np.linspace(0, 1, 11) ** 2
    array = np.array([*found, 105, 195, 90, 220]).reshape(3, 5, 1)
    expected = [*scale, 0.005, 0.905, -0.01, 1.38]
    np.testing.assert_allclose(nyul.standardised(array, found, scale).ravel(), expected, atol=1e-6)


def test_scans_that_differ_in_gain_and_offset_alone_become_the_same():
    scale = nyul.standard_scale([nyul.landmarks(scan(n)) for n in range(5)])
    one, other = scan(7), scan(7, gain=3.5, offset=120)
    np.testing.assert_allclose(
        nyul.standardised(one, nyul.landmarks(one), scale),
        nyul.standardised(other, nyul.landmarks(other), scale),
        atol=1e-4,
    )


def test_a_tissue_has_nearly_one_value_whatever_the_scanner_s_curve():
    scans = [scan(n, gain=1 + n / 3, offset=30 * n, gamma=0.7 + n / 10) for n in range(6)]
    found = [nyul.landmarks(array) for array in scans]
    scale = nyul.standard_scale(found)

    def spread(arrays):
        """Of the medians of the brightest tissue, against the range of values."""
        medians = [np.median(array[array > np.percentile(array, 95)]) for array in arrays]
        return np.ptp(medians) / np.mean(medians)

    assert spread(scans) > 0.5
    assert spread([nyul.standardised(a, f, scale) for a, f in zip(scans, found, strict=True)]) < 0.02


def test_the_order_of_values_stays():
    array = scan(0)
    changed = nyul.standardised(array, nyul.landmarks(array), nyul.standard_scale([nyul.landmarks(scan(1, gamma=2))]))
    order = np.argsort(array, axis=None, kind="stable")
    assert np.all(np.diff(changed.ravel()[order]) >= 0) and changed.dtype == np.float32


def test_landmarks_may_coincide_where_scans_have_few_values():
    found = np.array([1.0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3])
    scale = np.linspace(0, 1, 11)
    np.testing.assert_allclose(nyul.standardised(np.array([1.0, 2, 3]), found, scale), [0.15, 0.45, 0.8], atol=1e-6)
    with pytest.raises(ValueError, match="one value"):
        nyul.standardised(np.ones(3), np.ones(11), scale)
