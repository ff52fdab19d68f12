"""Rotates queries and keys by angles that grow with position: rotary position embedding (RoFormer, arXiv 2104.09864).

Their products then depend on how far apart two positions are and not on where they lie.
"""

import jax
import jax.numpy as jnp
import numpy as np

LONGEST_PERIOD = 10_000  # over 2 pi, as in the paper


def frequencies(width: int) -> np.ndarray:
    """Returns the angle each pair of features turns from one position to the next: [width / 2] float32; width even."""
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    return np.float32(1) / np.float32(LONGEST_PERIOD) ** exponents


def rotate_along_depth(x: jax.Array, width: int) -> jax.Array:
    """Turns each pair (2i, 2i + 1) of the first `width` features by its frequency times the position along D.

    Args:
      x: [B, D, H, W, heads, features].
      width: even, at most the features; what comes after it is left alone.

    Returns:
      Like x, turned in float32.
    """
    angles = np.arange(x.shape[1], dtype=np.float32)[:, None] * frequencies(width)
    cosine, sine = (f(angles)[:, None, None, None] for f in (np.cos, np.sin))
    turning, rest = x[..., :width].astype(jnp.float32), x[..., width:]
    a, b = turning[..., 0::2], turning[..., 1::2]
    turned = jnp.stack([a * cosine - b * sine, b * cosine + a * sine], axis=-1).reshape(turning.shape)
    return jnp.concatenate([turned.astype(x.dtype), rest], axis=-1)
