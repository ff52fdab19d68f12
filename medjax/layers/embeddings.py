"""Embeds what a network is told beside x_t: the diffusion timestep, and what is to be seen."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax.layers.conv import uniform_fan_in
from medjax.layers.lookup import look_up


def cos_sin_embedding(t: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Computes WDM's sinusoids: [cos(t f_i), sin(t f_i)], f_i = max_period^(-i / half), half = width // 2.

    Args:
      t: [B], timesteps, whole or fractional.
      width: width of the embedding; if odd, its last column is zero.
      max_period: the longest period is 2 pi times this.

    Returns:
      [B, width], float32.
    """
    half = width // 2
    phases = t.astype(jnp.float32)[:, None] * _frequencies(half, half, max_period)
    return jnp.pad(jnp.concatenate([jnp.cos(phases), jnp.sin(phases)], axis=-1), ((0, 0), (0, width % 2)))


def sin_cos_embedding(t: jax.Array, width: int, max_period: float = 10_000.0) -> jax.Array:
    """Computes Medical Diffusion's sinusoids [sin(t f_i), cos(t f_i)], f_i = max_period^(-i / (half - 1)); width even.

    Arguments and result as in `cos_sin_embedding`.
    """
    half = width // 2
    phases = t.astype(jnp.float32)[:, None] * _frequencies(half, half - 1, max_period)
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)


def _frequencies(count: int, denominator: int, max_period: float) -> np.ndarray:
    return np.exp(-np.log(max_period) * np.arange(count) / denominator).astype(np.float32)


class TimeEmbedding(nn.Module):
    """Embeds a timestep [B] as a vector [B, features]: sinusoids, then a hidden layer of the same width.

    Attributes:
      sinusoids: width of the sinusoidal embedding.
      features: width of the result.
      dtype: data type of the computation; the sinusoids and the parameters are float32.
      embed: `cos_sin_embedding` or `sin_cos_embedding`.
      activation: activation of the hidden layer.
    """

    sinusoids: int
    features: int
    dtype: jnp.dtype = jnp.float32
    embed: Callable[[jax.Array, int], jax.Array] = cos_sin_embedding
    activation: Callable[[jax.Array], jax.Array] = nn.silu

    @nn.compact
    def __call__(self, t: jax.Array) -> jax.Array:
        x = self.embed(t, self.sinusoids)
        x = nn.Dense(self.features, kernel_init=uniform_fan_in, dtype=self.dtype, name="hidden")(x)
        return nn.Dense(self.features, kernel_init=uniform_fan_in, dtype=self.dtype, name="output")(self.activation(x))


class LabelEmbedding(nn.Module):
    """Embeds the class of each example, [B], as a vector [B, features].

    Attributes:
      classes: labels are 0 .. classes - 1; all others, such as -1, mean "unknown", which has a vector of its own.
      features: width of the result.
      dtype: data type of the result; the table [classes + 1, features] is float32, its last row that of the unknown.
    """

    classes: int
    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, label: jax.Array) -> jax.Array:
        table = self.param("table", nn.initializers.normal(1.0), (self.classes + 1, self.features), jnp.float32)
        known = (label >= 0) & (label < self.classes)
        return look_up(table, jnp.where(known, label, self.classes)).astype(self.dtype)


def unknown_labels(x: jax.Array) -> jax.Array:
    """Returns the label -1 for each example of x [B, ...]: [B] int32."""
    return jnp.full(x.shape[:1], -1, jnp.int32)
