"""Transforms volumes by the 3D Haar wavelet, and back.

A transform replaces every 2 x 2 x 2 cube of voxels by eight orthonormal coefficients, one for each subband. A
subband's name has one letter for each of the axes (D, H, W): L, the low-pass (a + b) / sqrt 2, or H, the high-pass
(a - b) / sqrt 2. Cubes do not overlap, so a volume split over devices along D or H, in even parts, is transformed
without communication.

Volumes of one channel are transformed in another way on TPUs. There W lies along the lanes of a register, and to take its
pairs apart by reshaping moves every voxel by itself. A product with a matrix of 0, 1 and -1 gives the same to rounding, where
all voxels are finite, and costs next to nothing; D and H are pairs of whole rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SUBBANDS = ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH")


def haar_dwt3d(x: jax.Array) -> jax.Array:
    """Computes one level of the orthonormal 3D Haar transform.

    Args:
      x: [B, D, H, W, C] of a floating dtype; D, H and W even.

    Returns:
      [B, D/2, H/2, W/2, 8, C] of the same dtype, the fifth axis in the order of `SUBBANDS`.

    Raises:
      ValueError: x is not five-dimensional or an edge is odd.
    """
    if x.ndim != 5 or any(edge % 2 for edge in x.shape[1:4]):
        raise ValueError(f"haar_dwt3d of shape {x.shape}: expected [B, D, H, W, C] with even D, H and W")
    if x.shape[-1] == 1:
        return lax.platform_dependent(x, tpu=dwt_along_lanes, default=dwt_by_cubes)
    return dwt_by_cubes(x)


def dwt_by_cubes(x: jax.Array) -> jax.Array:
    """Computes `haar_dwt3d` of any number of channels, as all but TPUs do it."""
    b, d, h, w, c = x.shape
    x = x.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2, c)
    bands = _butterflies(x, axes=(2, 4, 6)).transpose(0, 1, 3, 5, 2, 4, 6, 7)
    return bands.reshape(b, d // 2, h // 2, w // 2, 8, c)


def haar_idwt3d(bands: jax.Array) -> jax.Array:
    """Inverts `haar_dwt3d`: [B, D, H, W, 8, C] to [B, 2D, 2H, 2W, C], of the same dtype.

    Raises:
      ValueError: `bands` is not six-dimensional or its fifth axis is not 8.
    """
    if bands.ndim != 6 or bands.shape[4] != 8:
        raise ValueError(f"haar_idwt3d of shape {bands.shape}: expected [B, D, H, W, 8, C]")
    if bands.shape[-1] == 1:
        return lax.platform_dependent(bands, tpu=idwt_along_lanes, default=idwt_by_cubes)
    return idwt_by_cubes(bands)


def idwt_by_cubes(bands: jax.Array) -> jax.Array:
    """Computes `haar_idwt3d` of any number of channels, as all but TPUs do it."""
    b, d, h, w, _, c = bands.shape
    bands = bands.reshape(b, d, h, w, 2, 2, 2, c)
    x = _butterflies(bands, axes=(4, 5, 6)).transpose(0, 1, 4, 2, 5, 3, 6, 7)
    return x.reshape(b, 2 * d, 2 * h, 2 * w, c)


def _butterflies(x: jax.Array, axes: tuple[int, int, int]) -> jax.Array:
    """Replaces the pair (a, b) on each of three axes of length 2 by (a + b, a - b) / sqrt 2, which is its own inverse.

    Written as `x * (1, -1) + reversed x` every output element is one expression of its inputs, so XLA fuses the whole
    transform and the reordering around it into a single pass over memory: nearly the cost of a copy, also on a CPU.
    Its gradient has the same form.
    """
    for axis in axes:
        signs = jnp.array([1, -1], x.dtype).reshape([2 if i == axis else 1 for i in range(x.ndim)])
        x = x * signs + jnp.flip(x, axis)
    return x * jnp.asarray(8**-0.5, x.dtype)


def dwt_along_lanes(x: jax.Array) -> jax.Array:
    """Computes `haar_dwt3d` of one channel, as TPUs do it."""
    along_w = jnp.einsum(
        "bdhw,wv->bdhv", x[..., 0], _sums_and_differences(x.shape[3], x.dtype), precision=lax.Precision.HIGHEST
    )
    bands = [along_w * jnp.asarray(8**-0.5, x.dtype)]
    for axis in (1, 2):
        bands = [band for both in bands for band in _low_and_high(both, axis)]
    return jnp.stack([band for both in bands for band in jnp.split(both, 2, axis=3)], axis=-1)[..., None]


def idwt_along_lanes(bands: jax.Array) -> jax.Array:
    """Computes `haar_idwt3d` of one channel, as TPUs do it."""
    lll, llh, lhl, lhh, hll, hlh, hhl, hhh = (bands[..., i, 0] for i in range(8))
    ll, lh, hl, hh = (jnp.concatenate(both, axis=3) for both in ((lll, llh), (lhl, lhh), (hll, hlh), (hhl, hhh)))
    x = _joined(_joined(ll, lh, axis=2), _joined(hl, hh, axis=2), axis=1)
    x = jnp.einsum("bdhv,wv->bdhw", x, _sums_and_differences(x.shape[3], x.dtype), precision=lax.Precision.HIGHEST)
    return (x * jnp.asarray(8**-0.5, x.dtype))[..., None]


def _sums_and_differences(n: int, dtype: jnp.dtype) -> np.ndarray:
    """Returns [n, n], by which a row of n becomes the n / 2 sums of its pairs and then their n / 2 differences."""
    sums = np.repeat(np.eye(n // 2), 2, axis=0)
    return np.concatenate([sums, sums * np.tile([1, -1], n // 2)[:, None]], axis=1).astype(dtype)


def _low_and_high(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns the sums and the differences of the pairs of an axis."""
    pairs = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    a, b = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    return a + b, a - b


def _joined(low: jax.Array, high: jax.Array, axis: int) -> jax.Array:
    """Returns twice the pairs that have these sums and differences."""
    pairs = jnp.stack([low + high, low - high], axis=axis + 1)
    return pairs.reshape(*low.shape[:axis], -1, *low.shape[axis + 1 :])
