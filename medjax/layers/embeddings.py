"""Embeddings of the diffusion timestep."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax.layers.conv import uniform_fan_in


def cos_sin_embedding(t: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """WDM's sinusoids: [cos(t f_i), sin(t f_i)], f_i = max_period^(-i / half), half = width // 2.

    Args:
      t: [B], timesteps, whole or fractional.
      width: of the embedding; if odd, its last column is zero.
      max_period: the longest period is 2 pi times this.

    Returns:
      [B, width], float32.
    """
    half = width // 2
    phases = t.astype(jnp.float32)[:, None] * _frequencies(half, half, max_period)
    return jnp.pad(jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1), ((0, 0), (0, width % 2)))


def sin_cos_embedding(t: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Medical Diffusion's sinusoids: [sin(t f_i), cos(t f_i)], f_i = max_period^(-i / (half - 1)); width even.

    Arguments and result as in `cos_sin_embedding`.
    """
    half = width // 2
    phases = t.astype(jnp.float32)[:, None] * _frequencies(half, half - 1, max_period)
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)


def _frequencies(count: int, denominator: int, max_period: float) -> np.ndarray:
    return np.exp(-np.log(max_period) * np.arange(count) / denominator).astype(np.float32)


class TimeEmbedding(nn.Module):
    """A timestep [B] as a vector [B, features]: sinusoids, then a hidden layer of the same width.

    Attributes:
      sinusoids: width of the sinusoidal embedding.
      features: width of the result.
      dtype: of the computation; the sinusoids and the parameters are float32.
    """

    sinusoids: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        x = cos_sin_embedding(t, self.sinusoids)
        x = nn.Dense(self.features, kernel_init=uniform_fan_in, dtype=self.dtype, name="hidden")(x)
        return nn.Dense(self.features, kernel_init=uniform_fan_in, dtype=self.dtype, name="output")(nn.silu(x))
