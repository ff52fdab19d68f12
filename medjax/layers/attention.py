"""Self-attention over all voxels of a volume."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.conv import uniform_fan_in
from medjax.layers.fold import refold
from medjax.layers.normalization import GroupNorm

QKV_ORDERS = ("heads_first", "qkv_first")


class SelfAttention(nn.Module):
    """x + output(attention(qkv(norm(x)))) of a volume [B, D, H, W/fold, fold * C]: every voxel attends to every other.

    Attributes:
      heads: attention heads.
      qkv_order: how the 3C outputs of `qkv` are laid out: "heads_first", (head, q or k or v, channel), which WDM calls
        legacy, or "qkv_first", (q or k or v, head, channel).
      groups: of the GroupNorm.
      dtype: of the computation; parameters and the softmax are float32.
      fold: of the input and the output.

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
        tokens = GroupNorm(self.groups, name="norm")(x).reshape(b, d * h * w, c)
        qkv = nn.Dense(3 * c, kernel_init=uniform_fan_in, dtype=self.dtype, name="qkv")(tokens)
        if self.qkv_order == "heads_first":
            qkv = qkv.reshape(b, -1, self.heads, 3, c // self.heads)
        else:
            qkv = qkv.reshape(b, -1, 3, self.heads, c // self.heads).swapaxes(2, 3)
        attended = jax.nn.dot_product_attention(*(qkv[..., i, :] for i in range(3))).reshape(b, -1, c)
        # Starts as the identity: the output layer is zero.
        y = nn.Dense(c, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="output")(attended)
        return refold(x + y.reshape(x.shape), 1, self.fold)
