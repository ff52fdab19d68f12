import numpy as np
import pytest
from scipy import ndimage

from medjax.metrics.alignment import MIRRORS, aligned, low_passed, mirrored, posed
from tolerance import assert_equal_but_for_rounding


def blobs(seed, shape=(24, 28, 20)):
    """A volume without symmetries, dark towards its borders."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    window = np.einsum("i,j,k->ijk", *(np.hanning(n) for n in shape))
    return (window * (1 + field / field.std())).astype(np.float32)


def moved(volume):
    """By a turn of 4 degrees, a stretch of 3 % and a good voxel."""
    c, s = np.cos(np.deg2rad(4)), np.sin(np.deg2rad(4))
    matrix = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.03]])
    centre = (np.array(volume.shape) - 1) / 2
    return ndimage.affine_transform(volume, matrix, centre - matrix @ centre + [1.3, -0.8, 0.6], order=1)


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.mark.parametrize(("shape", "low"), [((64, 48, 40), (32, 32, 32)), ((20, 24, 30), (20, 24, 30))])
def test_low_passed_keeps_the_mean_and_commutes_with_mirroring(shape, low):
    volumes = np.random.default_rng(0).standard_normal((2, *shape, 1)).astype(np.float32)
    small = low_passed(volumes)
    assert small.shape == (2, *low) and small.dtype == np.float32
    assert_equal_but_for_rounding(low_passed(np.full_like(volumes, 0.7)), 0.7)
    for mirror in MIRRORS:
        turned = np.flip(volumes, [axis + 1 for axis in mirror])
        assert_equal_but_for_rounding(low_passed(turned), mirrored(small, mirror))


def test_low_passed_is_the_mean_of_the_voxels_below():
    volumes = np.random.default_rng(1).standard_normal((1, 12, 6, 9, 1)).astype(np.float32)
    expected = volumes.reshape(3, 4, 3, 2, 3, 3).mean(axis=(1, 3, 5))
    assert_equal_but_for_rounding(low_passed(volumes, edge=3, blur=1e-3)[0], expected)


def test_a_moved_volume_is_brought_back():
    for seed in range(3):
        volume = blobs(seed)
        away = moved(volume)
        back = posed(away[None], volume)[0]
        assert correlation(away, volume) < 0.95 and correlation(back, volume) > 0.985
        brighter = posed(3 * away[None] + 1, volume)[0]
        np.testing.assert_allclose(brighter, 3 * back + 1, atol=0.02)


def test_what_does_not_fit_stays():
    flat = np.zeros((1, 24, 28, 20), np.float32)
    np.testing.assert_array_equal(posed(flat, blobs(0)), flat)


@pytest.mark.parametrize("mirror", [(), (0,), (1, 2)])
def test_aligned_finds_the_mirror(mirror):
    volume = blobs(5, (40, 44, 36))
    away = np.flip(moved(volume), mirror)
    found = aligned(away, volume)
    assert found.mirror == mirror and found.correlation > 0.98
    assert found.volume.shape == volume.shape and correlation(found.volume, volume) > 0.97
