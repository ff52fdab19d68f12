"""Attends between all voxels of a volume."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.conv import uniform_fan_in
from medjax.layers.fold import refold
from medjax.layers.normalization import GroupNorm
from medjax.layers.spatial import constrain_volume, gather_space

QKV_ORDERS = ("heads_first", "qkv_first")


class SelfAttention(nn.Module):
    """Computes x + output(attention(qkv(norm(x)))) of a volume [B, D, H, W/fold, fold * C]: every voxel attends to all others.

    Attributes:
      heads: attention heads.
      qkv_order: layout of the 3C outputs of `qkv`: "heads_first", (head, q or k or v, channel), which WDM calls
        legacy, or "qkv_first", (q or k or v, head, channel).
      groups: number of groups of the GroupNorm.
      dtype: data type of the computation; parameters and the softmax are float32.
      fold: fold of the input and the output.

    Raises:
      ValueError: C is not a multiple of heads, or the order is unknown.
    """

    heads: int = 1
    qkv_order: str = "heads_first"
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    fold: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = refold(x, self.fold, 1)
        b, d, h, w, c = x.shape
        if c % self.heads:
            raise ValueError(f"attention over {c} channels with {self.heads} heads: choose heads that divide it")
        if self.qkv_order not in QKV_ORDERS:
            raise ValueError(f"qkv_order {self.qkv_order!r}: choose one of {', '.join(QKV_ORDERS)}")
        qkv_layer = nn.Dense(3 * c, kernel_init=uniform_fan_in, dtype=self.dtype, name="qkv")
        qkv = qkv_layer(GroupNorm(self.groups, name="norm")(x))
        if self.qkv_order == "heads_first":
            qkv = qkv.reshape(b, d, h, w, self.heads, 3, c // self.heads)
        else:
            qkv = qkv.reshape(b, d, h, w, 3, self.heads, c // self.heads).swapaxes(4, 5)
        query, key, value = (qkv[..., i, :] for i in range(3))
        # On a mesh that cuts D or H every device asks for its own voxels, of all the others': keys and values are gathered.
        tokens = (b, d * h * w, self.heads, c // self.heads)
        key, value = (gather_space(part).reshape(tokens) for part in (key, value))
        attended = _attend(constrain_volume(query), key, value).reshape(x.shape)
        # Starts as the identity: the output layer is zero.
        y = nn.Dense(c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output")(attended)
        return refold(x + y, 1, self.fold)


def _attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Returns each voxel's softmax(q k / sqrt c)-weighted mean of the values.

    Args:
      query: [B, D, H, W, heads, c].
      key, value: [B, N, heads, c].
    """
    logits = jnp.einsum("bdhwnc,bmnc->bdhwnm", query, key, preferred_element_type=jnp.float32)
    weights = nn.softmax(logits * query.shape[-1] ** -0.5, axis=-1)
    return jnp.einsum("bdhwnm,bmnc->bdhwnc", weights.astype(value.dtype), value)
