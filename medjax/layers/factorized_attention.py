"""Attends along some axes of a volume at a time: within each slice (H and W), or along depth (D) at each place.

Each layer is x + output(attention(qkv(norm(x)))) of a volume [B, D, H, W, C], where the norm is over the channels. Where
a mesh cuts the axis that is attended along, keys and values are gathered over it, and over nothing else.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.sharding import PartitionSpec

from medjax.layers.conv import uniform_fan_in
from medjax.layers.rotary import rotate_along_depth
from medjax.layers.spatial import constrain_volume, volume_spec

MOST_ROTARY = 32  # features of a head that tell the position; those beyond it do not


class LinearAttention(nn.Module):
    """Attends linearly within each slice (arXiv 1812.01243): every place reads one [c, c] summary of its slice a head.

    On a mesh that cuts H only the sums over a slice, its softmax's and its summary, cross devices.

    Attributes:
      heads: attention heads.
      head_channels: c, channels a head.
      dtype: data type of the computation; parameters, the norm and both softmaxes are float32.
    """

    heads: int
    head_channels: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = _queries_keys_values(self, x)
        query = nn.softmax(query.astype(jnp.float32), axis=-1) * self.head_channels**-0.5
        key = nn.softmax(key.astype(jnp.float32), axis=(2, 3))
        query, key = query.astype(self.dtype), key.astype(self.dtype)
        summary = jnp.einsum("bdhwnc,bdhwne->bdnce", key, value)
        return x + _output(self, jnp.einsum("bdhwnc,bdnce->bdhwne", query, summary), x, use_bias=True)


class SliceAttention(nn.Module):
    """Lets every place of a slice attend to every other of it. Attributes as in `LinearAttention`."""

    heads: int
    head_channels: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        query, key, value = _queries_keys_values(self, x)
        key, value = (_gathered(part, "height") for part in (key, value))
        logits = jnp.einsum(
            "bdhwnc,bdijnc->bdhwnij", query * self.head_channels**-0.5, key, preferred_element_type=jnp.float32
        )
        weights = nn.softmax(logits, axis=(-2, -1)).astype(self.dtype)
        return x + _output(self, jnp.einsum("bdhwnij,bdijnc->bdhwnc", weights, value), x)


class DepthAttention(nn.Module):
    """Lets every place attend to those before and behind it in all slices, told by rotation and bias how far away.

    Attributes as in `LinearAttention`.

    Raises:
      ValueError: head_channels is odd, which cannot be rotated.
    """

    heads: int
    head_channels: int = 32
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> jax.Array:
        """Attends along depth: x [B, D, H, W, C] and a bias [heads, D, D] of the logits, the same at every place -> like x."""
        if self.head_channels % 2:
            raise ValueError(f"attention heads of {self.head_channels} channels: rotation takes an even number")
        query, key, value = _queries_keys_values(self, x)
        rotary = min(MOST_ROTARY, self.head_channels)
        query = rotate_along_depth(query * self.head_channels**-0.5, rotary)
        key = rotate_along_depth(key, rotary)
        key, value = (_gathered(part, "depth") for part in (key, value))
        logits = jnp.einsum("bdhwnc,bjhwnc->bhwndj", query, key, preferred_element_type=jnp.float32)
        weights = nn.softmax(logits + bias, axis=-1).astype(self.dtype)
        return x + _output(self, jnp.einsum("bhwndj,bjhwnc->bdhwnc", weights, value), x)


def _queries_keys_values(layer: nn.Module, x: jax.Array) -> list[jax.Array]:
    """Returns queries, keys and values of the normed x, each [B, D, H, W, heads, head_channels]."""
    # The mean of squared differences: E[x^2] - E[x]^2 cancels where few channels vary little.
    norm = nn.LayerNorm(epsilon=1e-5, use_bias=False, use_fast_variance=False, name="norm")
    width = layer.heads * layer.head_channels
    qkv = nn.Dense(3 * width, use_bias=False, kernel_init=uniform_fan_in, dtype=layer.dtype, name="qkv")(norm(x))
    qkv = constrain_volume(qkv).reshape(*x.shape[:4], 3, layer.heads, layer.head_channels)
    return [qkv[..., i, :, :] for i in range(3)]


def _output(layer: nn.Module, attended: jax.Array, x: jax.Array, use_bias: bool = False) -> jax.Array:
    """Joins the heads of [B, D, H, W, heads, head_channels] into x's channels."""
    joined = constrain_volume(attended).reshape(*x.shape[:4], -1)
    dense = nn.Dense(x.shape[-1], use_bias=use_bias, kernel_init=uniform_fan_in, dtype=layer.dtype, name="output")
    return constrain_volume(dense(joined))


def _gathered(x: jax.Array, axis: str) -> jax.Array:
    """Gathers keys or values [B, D, H, ...] over one mesh axis, so that each of its devices has them whole; other cuts stay."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: none in force
        return x
    spec = volume_spec(x.shape, mesh.shape)
    return lax.with_sharding_constraint(x, PartitionSpec(*(None if part == axis else part for part in spec)))
