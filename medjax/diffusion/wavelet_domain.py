"""The domain in which WDM diffuses: Haar coefficients as channels, the low-pass subband LLL divided by 3.

A one-level transform multiplies the mean of a volume by 2 sqrt 2; the division brings LLL back to about [-1, 1].
Noise is drawn in this domain directly and is not divided: white noise is white under an orthonormal transform.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.wavelets import SUBBANDS, haar_dwt3d, haar_idwt3d

_SCALE = np.array([3.0 if band == "LLL" else 1.0 for band in SUBBANDS], np.float32)[:, None]


def to_wavelet_domain(x: jax.Array) -> jax.Array:
    """[B, D, H, W, C] to [B, D/2, H/2, W/2, 8 * C]: the channels of LLL first, those of HHH last."""
    bands = haar_dwt3d(x) / _SCALE
    return bands.reshape(*bands.shape[:4], -1)


def from_wavelet_domain(coefficients: jax.Array) -> jax.Array:
    """The inverse of `to_wavelet_domain`."""
    return haar_idwt3d(_by_subband(coefficients) * _SCALE)


def clamp_in_image_space(coefficients: jax.Array) -> jax.Array:
    """The coefficients of the volume with its voxels clamped to [-1, 1]; same shape."""
    return to_wavelet_domain(jnp.clip(from_wavelet_domain(coefficients), -1, 1))


def subband_mse(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error of each volume in each subband, [B, 8], of coefficients [B, D, H, W, 8 * C]."""
    return jnp.mean(_by_subband(prediction - target) ** 2, axis=(1, 2, 3, 5))


def _by_subband(coefficients: jax.Array) -> jax.Array:
    return coefficients.reshape(*coefficients.shape[:4], len(SUBBANDS), -1)
