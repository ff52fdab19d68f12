"""Features without any weights: a fixed network of random 3D convolutions.

It has learned nothing, so its distances compare models on the same data and find gross defects (blur, noise, missing
contrast); they say nothing of anatomy and compare with no published number. Its kernels come from a generator whose bits do
not change with versions of libraries, so the features of a volume are the same everywhere, to float32 rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.layers.conv import conv3d, default_lowering

SEED = 0
CHANNELS = (16, 32, 64, 128)  # of the levels, each half the resolution of the one before
SIZE = 2 * sum(CHANNELS)


def random_params(seed: int = SEED) -> list[np.ndarray]:
    """The kernels [3, 3, 3, C, features] of each level, float32, uniform with He's variance."""
    bits, params, channels = np.random.PCG64(seed), [], 1
    for features in CHANNELS:
        shape = (3, 3, 3, channels, features)
        uniform = (bits.random_raw(np.prod(shape)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
        params.append((uniform * np.sqrt(3 * 2 / (27 * channels))).astype(np.float32).reshape(shape))
        channels = features
    return params


def random_features(params: list[jax.Array], volumes: jax.Array) -> jax.Array:
    """[B, SIZE] of volumes [B, D, H, W, 1] in [-1, 1]: the mean and the deviation of each level's channels over its voxels."""
    x, features = (volumes.astype(jnp.float32) + 1) / 2, []
    for kernel in params:
        x = jax.nn.relu(conv3d(x, kernel, (2, 2, 2), ((1, 1),) * 3, default_lowering(jax.default_backend())))
        mean = jnp.mean(x, axis=(1, 2, 3))
        variance = jnp.mean((x - mean[:, None, None, None]) ** 2, axis=(1, 2, 3))
        features += [mean, jnp.sqrt(variance + 1e-12)]
    return jnp.concatenate(features, axis=1)
