import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion.wavelet_domain import clamp_in_image_space, from_wavelet_domain, subband_mse, to_wavelet_domain
from medjax.wavelets import haar_dwt3d

X = jax.random.uniform(jax.random.key(0), (2, 4, 6, 8, 3), minval=-1, maxval=1)


def test_low_pass_is_divided_by_three():
    coefficients, bands = to_wavelet_domain(X), haar_dwt3d(X)
    assert coefficients.shape == (2, 2, 3, 4, 24)
    np.testing.assert_allclose(coefficients[..., :3], bands[..., 0, :] / 3, atol=1e-6)
    for i in range(1, 8):
        np.testing.assert_array_equal(coefficients[..., 3 * i : 3 * i + 3], bands[..., i, :])


def test_a_constant_volume_fills_the_range_in_its_low_pass_alone():
    coefficients = to_wavelet_domain(jnp.ones((1, 4, 4, 4, 1)))
    np.testing.assert_allclose(coefficients[..., 0], 8**0.5 / 3, atol=1e-6)
    np.testing.assert_allclose(coefficients[..., 1:], 0, atol=1e-6)


def test_inverse():
    np.testing.assert_allclose(from_wavelet_domain(to_wavelet_domain(X)), X, atol=2e-6)


def test_clamps_voxels_not_coefficients():
    np.testing.assert_allclose(clamp_in_image_space(to_wavelet_domain(X)), to_wavelet_domain(X), atol=2e-6)
    clamped = from_wavelet_domain(clamp_in_image_space(to_wavelet_domain(3 * X)))
    np.testing.assert_allclose(clamped, jnp.clip(3 * X, -1, 1), atol=2e-6)


def test_subband_errors():
    target = to_wavelet_domain(X)
    errors = np.arange(16).reshape(2, 8) / 10
    prediction = target + jnp.repeat(jnp.asarray(errors), 3, axis=1)[:, None, None, None]
    np.testing.assert_allclose(subband_mse(prediction, target), errors**2, atol=1e-5)
