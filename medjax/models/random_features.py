"""Computes features without any weights, by a fixed network of random 3D convolutions.

It has learned nothing, so its distances compare models on the same data and find gross defects (blur, noise, missing
contrast); they say nothing of anatomy and compare with no published number. Half of its kernels add up to zero and see only
change, and features are logarithms, so that faint channels count as bright ones do: blur and noise show in these. The
kernels come from a generator whose bits do not change with versions of libraries, so the features of a volume are the same
everywhere, to float32 rounding.
"""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.layers.conv import conv3d
from medjax.layers.lowering import lowering_for, machine_of

SEED = 0
CHANNELS = (16, 32, 64, 128)  # of the levels, each half the resolution of the one before
SIZE = 2 * sum(CHANNELS)
FLOOR = 0.01  # what is added before the logarithm: less than what an image has in any channel


def random_params(seed: int = SEED) -> list[np.ndarray]:
    """Draws the kernels [3, 3, 3, C, features] of each level, float32, uniform, He's variance; every second is centred."""
    bits, params, channels = np.random.PCG64(seed), [], 1
    for features in CHANNELS:
        shape = (3, 3, 3, channels, features)
        uniform = (bits.random_raw(np.prod(shape)) >> np.uint64(40)).astype(np.float64) / 2**23 - 1
        kernel = (uniform * np.sqrt(3 * 2 / (27 * channels))).reshape(shape)
        kernel[..., ::2] -= kernel[..., ::2].mean(axis=(0, 1, 2), keepdims=True)
        params.append(kernel.astype(np.float32))
        channels = features
    return params


def random_features(params: list[jax.Array], volumes: jax.Array) -> jax.Array:
    """Computes [B, SIZE] of volumes [B, D, H, W, 1] in [-1, 1]: each level's channels' logarithmic mean and deviation."""
    x, features = (volumes.astype(jnp.float32) + 1) / 2, []
    for kernel in params:
        x = jax.nn.relu(conv3d(x, kernel, (2, 2, 2), ((1, 1),) * 3, lowering_for(machine_of(jax.devices()[0]))))
        mean = jnp.mean(x, axis=(1, 2, 3))
        variance = jnp.mean((x - mean[:, None, None, None]) ** 2, axis=(1, 2, 3))
        features += [mean, jnp.sqrt(variance)]
    return jnp.log(jnp.concatenate(features, axis=1) + FLOOR)
