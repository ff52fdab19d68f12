"""Defines Medical Diffusion's U-Net on latents (arXiv 2211.03364), after Video Diffusion Models (arXiv 2204.03458).

Convolutions stay within slices and attention along depth joins them, so only H and W are halved from level to level.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.conditions import Condition, Told, embed_conditions
from medjax.layers.conv import Conv
from medjax.layers.embeddings import TimeEmbedding, sin_cos_embedding
from medjax.layers.factorized_attention import DepthAttention, LinearAttention, SliceAttention
from medjax.layers.relative_bias import RelativeBias
from medjax.models.factorized_blocks import SliceResidualBlock, SliceUpsample
from medjax.models.unet import one_a_level, size_multiple

SLICE_HEAD_CHANNELS = 32  # of the attention within slices, whatever that along depth has


class FactorizedUNet(nn.Module):
    """Applies two residual blocks a level and direction, each pair followed by attention within slices, then along depth.

    The defaults are the published model for latents of 32 voxels an edge (9,981,512 parameters).

    Attributes:
      out_channels: number of channels of the prediction.
      base_channels: width before the first level; even.
      channel_multipliers: each level's width is this times base_channels.
      groups: number of groups of every GroupNorm; divides every level's width.
      attention_heads: number of heads of every attention.
      attention_head_channels: channels a head along depth; within slices there are 32.
      first_kernel: edge of the first convolution in H and W; odd.
      spatial_attention: "linear" attention within the slices of every level, or "none"; the middle has full attention.
      depth_attention: without it slices know nothing of each other.
      conditions: all that the network is told besides x_t and t, each by a vector beside the time's.
      label_channels: width of such a vector; the time's by default.
      dtype: data type of the computation; parameters, norms, softmaxes and the result are float32.
      remat: recompute the activations of blocks and attention in the backward pass, at every level or one a level.
      lowering: lowering of every convolution, see `layers.conv.conv3d`.
    """

    out_channels: int
    base_channels: int = 32
    channel_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    groups: int = 8
    attention_heads: int = 8
    attention_head_channels: int = 32
    first_kernel: int = 7
    spatial_attention: str = "linear"
    depth_attention: bool = True
    conditions: tuple[Condition, ...] = ()
    label_channels: int | None = None
    dtype: jnp.dtype = jnp.float32
    remat: bool | tuple[bool, ...] = False
    lowering: str = "direct"

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of the input must be multiples of."""
        return size_multiple(len(self.channel_multipliers), keep_depth=True)

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array, told: Told | None = None, train: bool = False) -> jax.Array:
        """Predicts for noised latents.

        Args:
          x_t: [B, D, H, W, C]; H and W multiples of `size_multiple`.
          t: [B], the timesteps of the training schedule, whole or fractional.
          told: values of the conditions by name; what is missing is not known.
          train: makes no difference, there is no dropout.

        Returns:
          [B, D, H, W, out_channels], float32.

        Raises:
          ValueError: the levels cannot halve the shape, or an attribute is none of its choices.
        """
        del train
        levels, base = len(self.channel_multipliers), self.base_channels
        if any(edge % m for edge, m in zip(x_t.shape[1:4], self.size_multiple, strict=True)):
            raise ValueError(
                f"U-Net input {x_t.shape}: {levels} levels need (D, H, W) in multiples of {self.size_multiple}"
            )
        if self.spatial_attention not in ("linear", "none"):
            raise ValueError(f"spatial_attention {self.spatial_attention!r}: choose 'linear' or 'none'")

        embedding = TimeEmbedding(base, 4 * base, self.dtype, sin_cos_embedding, _gelu, name="time_embedding")(t)
        vectors = embed_conditions(self.conditions, told or {}, x_t, self.label_channels or 4 * base, self.dtype)
        embedding = jnp.concatenate([embedding, *vectors], axis=-1)
        bias = RelativeBias(self.attention_heads, name="depth_bias")(x_t.shape[1]) if self.depth_attention else None

        h = self._conv("input_conv", base, (1, self.first_kernel, self.first_kernel))(x_t.astype(self.dtype))
        first, skips = h, []
        h = self._along_depth("input_depth_attention", 0, h, bias)
        for level, multiplier in enumerate(self.channel_multipliers):
            h = self._level("down", level, multiplier * base, h, embedding, bias)
            skips.append(h)
            if level < levels - 1:
                padding = ((0, 0), (1, 1), (1, 1))
                h = self._conv(f"down_{level}_resample", h.shape[-1], (1, 4, 4), strides=(1, 2, 2), padding=padding)(h)

        width = h.shape[-1]
        h = self._block("middle_block_0", levels - 1, width)(h, embedding)
        middle = self._maybe_remat(SliceAttention, levels - 1)
        h = middle(self.attention_heads, SLICE_HEAD_CHANNELS, self.dtype, name="middle_slice_attention")(h)
        h = self._along_depth("middle_depth_attention", levels - 1, h, bias)
        h = self._block("middle_block_1", levels - 1, width)(h, embedding)

        below = (base, *(multiplier * base for multiplier in self.channel_multipliers))  # the level above's width
        for level in reversed(range(levels)):
            h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self._level("up", level, below[level], h, embedding, bias)
            if level > 0:
                h = SliceUpsample(self.dtype, self.lowering, name=f"up_{level}_resample")(h)

        h = self._block("head_block", 0, base)(jnp.concatenate([h, first], axis=-1))
        return self._conv("head_conv", self.out_channels, (1, 1, 1))(h).astype(jnp.float32)

    def _level(
        self, way: str, level: int, width: int, h: jax.Array, embedding: jax.Array, bias: jax.Array | None
    ) -> jax.Array:
        """Makes the blocks and the attention of a level, on the way "down" or "up"."""
        for i in (0, 1):
            h = self._block(f"{way}_{level}_block_{i}", level, width)(h, embedding)
        if self.spatial_attention == "linear":
            attention = self._maybe_remat(LinearAttention, level)
            name = f"{way}_{level}_slice_attention"
            h = attention(self.attention_heads, SLICE_HEAD_CHANNELS, self.dtype, name=name)(h)
        return self._along_depth(f"{way}_{level}_depth_attention", level, h, bias)

    def _along_depth(self, name: str, level: int, h: jax.Array, bias: jax.Array | None) -> jax.Array:
        if bias is None:
            return h
        attention = self._maybe_remat(DepthAttention, level)
        return attention(self.attention_heads, self.attention_head_channels, self.dtype, name=name)(h, bias)

    def _block(self, name: str, level: int, features: int) -> SliceResidualBlock:
        block = self._maybe_remat(SliceResidualBlock, level)
        return block(features, self.groups, self.dtype, self.lowering, name=name)

    def _conv(self, name: str, features: int, kernel_size: tuple[int, int, int], **options) -> Conv:
        return Conv(features, kernel_size, dtype=self.dtype, lowering=self.lowering, name=name, **options)

    def _maybe_remat(self, layer: type[nn.Module], level: int) -> type[nn.Module]:
        return nn.remat(layer) if one_a_level(self.remat, len(self.channel_multipliers))[level] else layer


def _gelu(x: jax.Array) -> jax.Array:
    return nn.gelu(x, approximate=False)
