"""Measures how alike volumes are: multi-scale structural similarity (Wang et al. 2003) in 3D.

As published for WDM: a Gaussian window of 7 voxels and deviation 1.5 that stays inside the volume, at five scales, each half
as large as the one before. Of each scale but the last the contrast and structure count, of the last the luminance too; each
averaged over the volume, to a power, and multiplied.

A window is three products with a banded matrix, one an axis. Means and variances belong to a volume and are taken once;
a pair then needs one window of its product a scale.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, finest first
WINDOW, DEVIATION = 7, 1.5
C1, C2 = 0.01**2, 0.03**2  # for intensities from 0 to 1


class Moments(NamedTuple):
    """Holds the moments of volumes at one scale.

    Attributes:
      x: [n, D, H, W] float32 in [0, 1].
      mean: [n, D - 6, H - 6, W - 6], under the window.
      variance: [n, D - 6, H - 6, W - 6], under the window.
    """

    x: jax.Array
    mean: jax.Array
    variance: jax.Array


def scales_of(shape: tuple[int, int, int]) -> int:
    """Counts the scales of volumes of (D, H, W) voxels: the smallest must hold the window. 5 from 112 voxels an edge on.

    Raises:
      ValueError: none.
    """
    scales = sum(min(shape) >> scale >= WINDOW for scale in range(len(POWERS)))
    if not scales:
        raise ValueError(f"volumes of {shape} voxels: MS-SSIM needs {WINDOW} an edge")
    return scales


def powers_of(scales: int) -> tuple[float, ...]:
    """Returns the weights of the finest `scales`, to the same sum as all five."""
    used = POWERS[:scales]
    return tuple(power * sum(POWERS) / sum(used) for power in used)


def moments(volumes: jax.Array) -> list[Moments]:
    """Computes the moments at each scale, of volumes [n, D, H, W, 1] in [-1, 1]."""
    x = (volumes[..., 0].astype(jnp.float32) + 1) / 2
    levels = []
    for scale in range(scales_of(x.shape[1:])):
        if scale:
            x = _halved(x)
        mean = _window(x)
        levels.append(Moments(x, mean, _window(x * x) - mean * mean))
    return levels


def similarity(a: list[Moments], b: list[Moments]) -> tuple[jax.Array, jax.Array]:
    """Compares each row of a with the same row of b, at every scale, averaged over the volume.

    Returns:
      Two arrays [n, scales]: luminance times contrast times structure, and the latter two alone.
    """
    whole, structure = [], []
    for p, q in zip(a, b, strict=True):
        means = p.mean * q.mean
        covariance = _window(p.x * q.x) - means
        contrast = (2 * covariance + C2) / (p.variance + q.variance + C2)
        luminance = (2 * means + C1) / (p.mean**2 + q.mean**2 + C1)
        structure.append(jnp.mean(contrast, axis=(1, 2, 3)))
        whole.append(jnp.mean(luminance * contrast, axis=(1, 2, 3)))
    return jnp.stack(whole, axis=1), jnp.stack(structure, axis=1)


def ms_ssim_of_moments(a: list[Moments], b: list[Moments]) -> jax.Array:
    """Compares each row of a with the same row of b: [n], 1 for equal volumes, 0 where a scale is not alike at all."""
    whole, structure = similarity(a, b)
    terms = jnp.concatenate([structure[:, :-1], whole[:, -1:]], axis=1)
    return jnp.prod(jnp.maximum(terms, 0.0) ** jnp.array(powers_of(len(a))), axis=1)


def _window(x: jax.Array) -> jax.Array:
    """Averages over the voxels of a window, weighted: [n, D, H, W] to [n, D - 6, H - 6, W - 6]."""
    for axis in (3, 2, 1):
        band = jnp.asarray(_band(x.shape[axis]))
        # In full float32: variances are small differences of these.
        x = jnp.moveaxis(jnp.tensordot(x, band, (axis, 0), precision=jax.lax.Precision.HIGHEST), -1, axis)
    return x


@functools.cache
def _band(edge: int) -> np.ndarray:
    """Returns the matrix [edge, edge - 6] whose column j holds the window from row j on."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-(offsets**2) / (2 * DEVIATION**2))
    band = np.zeros((edge, edge - WINDOW + 1), np.float32)
    for j in range(band.shape[1]):
        band[j : j + WINDOW, j] = window / window.sum()
    return band


def _halved(x: jax.Array) -> jax.Array:
    """Averages 2 x 2 x 2 voxels of [n, D, H, W]; an odd voxel at the end is left out."""
    n, d, h, w = x.shape
    x = x[:, : d // 2 * 2, : h // 2 * 2, : w // 2 * 2]
    return x.reshape(n, d // 2, 2, h // 2, 2, w // 2, 2).mean(axis=(2, 4, 6))
