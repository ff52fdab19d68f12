import jax
import numpy as np
import pytest
from scipy.ndimage import correlate1d

from medjax.metrics.ms_ssim import POWERS, moments, powers_of, scales_of, similarity
from rowwise_ms_ssim import ms_ssim

C1, C2 = 1e-4, 9e-4
RNG = np.random.default_rng(0)


def alike(n: int, shape: tuple[int, int, int], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Smooth volumes with flat parts at both ends of [-1, 1], and the same with noise."""
    smooth = RNG.normal(size=(n, *shape))
    for axis in (1, 2, 3):
        smooth = correlate1d(smooth, np.hanning(9), axis=axis, mode="wrap")
    a = np.clip(smooth / smooth.std(), -1, 1)[..., None].astype(np.float32)
    return a, np.clip(a + noise * RNG.normal(size=a.shape), -1, 1).astype(np.float32)


def by_definition(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Similarity and its contrast and structure at each scale of [D, H, W] in [0, 1], in float64."""
    window = np.exp(-((np.arange(7) - 3) ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(x: np.ndarray) -> np.ndarray:
        for axis in range(3):
            x = correlate1d(x, window, axis=axis)
        return x[3:-3, 3:-3, 3:-3]

    whole, structure = [], []
    for _ in range(scales_of(a.shape)):
        mean_a, mean_b = mean(a), mean(b)
        variances = mean((a - b) ** 2) - (mean_a - mean_b) ** 2
        covariance = mean(a * b) - mean_a * mean_b
        contrast = (2 * covariance + C2) / (variances + 2 * covariance + C2)
        structure.append(contrast.mean())
        whole.append((contrast * (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)).mean())
        d, h, w = (edge // 2 for edge in a.shape)
        a, b = (x[: 2 * d, : 2 * h, : 2 * w].reshape(d, 2, h, 2, w, 2).mean(axis=(1, 3, 5)) for x in (a, b))
    return np.array(whole), np.array(structure)


@pytest.mark.parametrize("shape", [(16, 15, 29), (28, 30, 32)])
def test_against_the_definition_in_float64(shape):
    a, b = alike(2, shape, 0.3)
    whole, structure = similarity(moments(a), moments(b))
    expected = [by_definition((x[..., 0] + 1.0) / 2, (y[..., 0] + 1.0) / 2) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(whole, [e[0] for e in expected], rtol=0, atol=3e-6)
    np.testing.assert_allclose(structure, [e[1] for e in expected], rtol=0, atol=3e-6)
    powers = powers_of(scales_of(shape))
    product = [np.prod(np.maximum([*s[:-1], w[-1]], 0) ** np.array(powers)) for w, s in expected]
    np.testing.assert_allclose(ms_ssim(a, b), product, rtol=0, atol=3e-6)


def test_scales():
    assert [scales_of((edge, 200, 200)) for edge in (7, 13, 14, 28, 64, 111, 112, 256)] == [1, 1, 2, 3, 4, 4, 5, 5]
    with pytest.raises(ValueError, match="needs 7 an edge"):
        scales_of((64, 64, 6))
    assert powers_of(5) == POWERS
    np.testing.assert_allclose([sum(powers_of(scales)) for scales in range(1, 6)], sum(POWERS))


def test_of_equal_and_of_opposite_volumes():
    a, _ = alike(2, (16, 16, 16), 0)
    np.testing.assert_allclose(ms_ssim(a, a), 1, atol=1e-6)
    np.testing.assert_array_equal(ms_ssim(a, -a), 0)  # a negative term counts as none at all
    assert jax.eval_shape(ms_ssim, a, a).shape == (2,)
