"""Measures how far a reconstruction is from its volume: peak signal to noise ratio, in dB; more is better."""

import jax
import jax.numpy as jnp

PEAK = 2.0  # from -1 to 1


def psnr(reconstruction: jax.Array, volumes: jax.Array) -> jax.Array:
    """Returns the PSNR of each volume, [B], from [B, ...] in [-1, 1], to which reconstructions are clipped; 126 dB if equal."""
    squares = (jnp.clip(reconstruction, -1.0, 1.0) - volumes) ** 2
    mse = jnp.mean(squares, axis=tuple(range(1, volumes.ndim)))
    return 10.0 * jnp.log10(PEAK**2 / jnp.maximum(mse, 1e-12))
