"""Defines the domain in which WDM diffuses: Haar coefficients as channels, each subband divided by its scale.

A one-level transform multiplies the mean of a volume by 2 sqrt 2; WDM divides the low-pass subband LLL by 3, which brings it
back to about [-1, 1], and leaves the others alone. Dividing each by its standard deviation gives all eight the same ratio
of signal to noise. Noise is drawn in this domain directly and is not divided: white noise is white under an orthonormal
transform.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import thresholds
from medjax.wavelets import SUBBANDS, haar_dwt3d, haar_idwt3d

Scale = tuple[float, ...]  # what LLL .. HHH are divided by

LLL_BY_3: Scale = tuple(3.0 if band == "LLL" else 1.0 for band in SUBBANDS)


def to_wavelet_domain(x: jax.Array, scale: Scale = LLL_BY_3) -> jax.Array:
    """Transforms [B, D, H, W, C] to [B, D/2, H/2, W/2, 8 * C]: the channels of LLL first, those of HHH last."""
    bands = haar_dwt3d(x) / _by_band(scale)
    return bands.reshape(*bands.shape[:4], -1)


def from_wavelet_domain(coefficients: jax.Array, scale: Scale = LLL_BY_3) -> jax.Array:
    """Inverts `to_wavelet_domain`."""
    return haar_idwt3d(_by_subband(coefficients) * _by_band(scale))


def clamp_in_image_space(coefficients: jax.Array, scale: Scale = LLL_BY_3) -> jax.Array:
    """Returns the coefficients of the volume with its voxels clamped to [-1, 1]; same shape."""
    return to_wavelet_domain(jnp.clip(from_wavelet_domain(coefficients, scale), -1, 1), scale)


def threshold_dynamically(coefficients: jax.Array, scale: Scale = LLL_BY_3, share: float = 0.995) -> jax.Array:
    """Returns the coefficients of the volume after `thresholds.threshold_dynamically` of its voxels; same shape."""
    x = from_wavelet_domain(coefficients, scale)
    return to_wavelet_domain(thresholds.threshold_dynamically(x, share), scale)


def subband_means(values: jax.Array) -> jax.Array:
    """Averages each example in each subband, [B, 8], of values [B, D, H, W, 8 * C]."""
    return jnp.mean(_by_subband(values), axis=(1, 2, 3, 5))


def subband_deviations(x: np.ndarray) -> Scale:
    """Computes the standard deviation of each subband LLL .. HHH over all voxels of volumes [B, D, H, W, C]."""
    bands = np.asarray(haar_dwt3d(jnp.asarray(x, jnp.float32)), np.float64)
    return tuple(float(value) for value in bands.std(axis=(0, 1, 2, 3, 5)))


def _by_subband(coefficients: jax.Array) -> jax.Array:
    return coefficients.reshape(*coefficients.shape[:4], len(SUBBANDS), -1)


def _by_band(scale: Scale) -> np.ndarray:
    return np.array(scale, np.float32)[:, None]
