"""A network that has learned nothing must still tell gross defects from none, and more of them from less."""

import numpy as np
from scipy.ndimage import gaussian_filter

from medjax.metrics.frechet import frechet_distance
from medjax.models.features import random_backbone
from medjax.models.random_features import CHANNELS, SIZE, random_params

RNG = np.random.default_rng(0)


def blobs(n: int) -> np.ndarray:
    """Volumes [n, 24, 24, 24, 1] in [-1, 1]: a bright body with smooth texture inside, on black."""
    texture = gaussian_filter(RNG.normal(size=(n, 24, 24, 24)), (0, 2, 2, 2))
    texture /= texture.std()
    z, y, x = np.ogrid[:24, :24, :24]
    radii = RNG.uniform(8, 10, (n, 1, 1, 1))
    body = (z - 11.5) ** 2 + (y - 11.5) ** 2 + (x - 11.5) ** 2 < radii**2
    return np.clip(np.where(body, 0.2 + 0.3 * texture, -1), -1, 1)[..., None].astype(np.float32)


def test_defects_are_ranked():
    backbone = random_backbone()
    real, generated = backbone.features(blobs(40)), blobs(40)

    def distance(volumes: np.ndarray) -> float:
        return frechet_distance(real, backbone.features(volumes.astype(np.float32)))

    none = distance(generated)
    blurred = [distance(gaussian_filter(generated, (0, s, s, s, 0))) for s in (0.8, 1.5, 3)]
    noised = [distance(np.clip(generated + s * RNG.normal(size=generated.shape), -1, 1)) for s in (0.1, 0.2, 0.5)]
    faded = [distance((generated + 1) * s - 1) for s in (0.8, 0.4, 0)]  # the last is blank
    collapsed = distance(np.repeat(generated[:2], 20, axis=0))
    for worse in (blurred, noised, faded):
        assert none < worse[0] < worse[1] < worse[2], (none, worse)
        assert worse[1] > 1.5 * none
        assert worse[2] > 4 * none
    assert collapsed > 2 * none


def test_the_network_is_the_same_everywhere():
    """Its numbers come from the bits of a generator whose stream is promised not to change."""
    params = random_params()
    assert [kernel.shape[-1] for kernel in params] == list(CHANNELS)
    np.testing.assert_allclose(params[0].ravel()[1::2][:3], (-0.21704723, -0.45582217, 0.38914967), rtol=1e-6)
    assert random_backbone().fingerprint == "298d37000ede"
    assert random_backbone().size == SIZE == 480
    for kernel in params:
        np.testing.assert_allclose(kernel[..., 1::2].std(), np.sqrt(2 / np.prod(kernel.shape[:4])), rtol=0.1)  # He's
        np.testing.assert_allclose(kernel[..., ::2].sum(axis=(0, 1, 2)), 0, atol=1e-5)
