import numpy as np

from medjax.metrics.psnr import psnr


def test_by_hand():
    volumes = np.zeros((3, 4, 4, 4, 1), "f4")
    off = np.array([0.2, 0.02, 5.0], "f4").reshape(3, 1, 1, 1, 1)  # the last is clipped to 1
    np.testing.assert_allclose(psnr(volumes + off, volumes), [20, 40, 20 * np.log10(2)], rtol=1e-5)
    np.testing.assert_allclose(psnr(volumes, volumes), 10 * np.log10(4e12), rtol=1e-5)
