import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion.wavelet_domain import (
    clamp_in_image_space,
    from_wavelet_domain,
    subband_deviations,
    subband_means,
    threshold_dynamically,
    to_wavelet_domain,
)
from medjax.wavelets import haar_dwt3d
from tolerance import assert_equal_but_for_rounding

X = jax.random.uniform(jax.random.key(0), (2, 4, 6, 8, 3), minval=-1, maxval=1)


def test_low_pass_is_divided_by_three():
    coefficients, bands = to_wavelet_domain(X), haar_dwt3d(X)
    assert coefficients.shape == (2, 2, 3, 4, 24)
    assert_equal_but_for_rounding(coefficients[..., :3], bands[..., 0, :] / 3, units=16)
    for i in range(1, 8):
        np.testing.assert_array_equal(coefficients[..., 3 * i : 3 * i + 3], bands[..., i, :])


def test_a_constant_volume_fills_the_range_in_its_low_pass_alone():
    coefficients = to_wavelet_domain(jnp.ones((1, 4, 4, 4, 1)))
    np.testing.assert_allclose(coefficients[..., 0], 8**0.5 / 3, atol=1e-6)
    np.testing.assert_allclose(coefficients[..., 1:], 0, atol=1e-6)


def test_inverse():
    assert_equal_but_for_rounding(from_wavelet_domain(to_wavelet_domain(X)), X)


def test_clamps_voxels_not_coefficients():
    assert_equal_but_for_rounding(clamp_in_image_space(to_wavelet_domain(X)), to_wavelet_domain(X))
    clamped = from_wavelet_domain(clamp_in_image_space(to_wavelet_domain(3 * X)))
    assert_equal_but_for_rounding(clamped, jnp.clip(3 * X, -1, 1))


def test_means_of_subbands():
    means = np.arange(16).reshape(2, 8) / 10
    values = jnp.broadcast_to(jnp.repeat(jnp.asarray(means), 3, axis=1)[:, None, None, None], (2, 2, 3, 4, 24))
    off = np.random.default_rng(1).standard_normal((2, 3, 4, 1))
    assert_equal_but_for_rounding(subband_means(values + off - off.mean()), means)


def test_any_scale_is_undone():
    scale = tuple(float(n + 1) for n in range(8))
    assert_equal_but_for_rounding(from_wavelet_domain(to_wavelet_domain(X, scale), scale), X)
    for function in (clamp_in_image_space, threshold_dynamically):
        volume = from_wavelet_domain(function(to_wavelet_domain(3 * X, scale), scale), scale)
        np.testing.assert_allclose(jnp.abs(volume).max(), 1, atol=2e-6)


def test_measured_deviations_even_the_subbands_out():
    volumes = 0.5 + X  # where the mean is, is not counted
    coefficients = to_wavelet_domain(volumes, subband_deviations(volumes)).reshape(-1, 8, 3)
    np.testing.assert_allclose(coefficients.std(axis=(0, 2)), 1, rtol=1e-5)


def test_dynamic_threshold():
    """The quantile of each volume's own magnitudes becomes 1; within [-1, 1] nothing changes."""
    volumes = jnp.stack([X[0], 4 * X[1]])
    found = from_wavelet_domain(threshold_dynamically(to_wavelet_domain(volumes), share=0.9))
    assert_equal_but_for_rounding(found[0], X[0])
    limit = np.quantile(np.abs(volumes[1]), 0.9)
    np.testing.assert_allclose(found[1], np.clip(volumes[1], -limit, limit) / limit, atol=0.01)
    assert limit > 2
