"""Defines WDM's U-Net (arXiv 2402.19043), on the wavelet coefficients of a volume or on any channels-last volume."""

import math
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.attention import SelfAttention
from medjax.layers.conditions import Condition, Told, embed_conditions
from medjax.layers.conv import Conv
from medjax.layers.embeddings import TimeEmbedding
from medjax.layers.fold import concatenate_channels, refold
from medjax.layers.normalization import GroupNorm
from medjax.layers.resample import nearest_2x
from medjax.models.blocks import ResidualBlock

T = TypeVar("T")


def size_multiple(levels: int, keep_depth: bool = False, fold: int | tuple[int, ...] = 1) -> tuple[int, int, int]:
    """Returns what D, H and W of a U-Net's input must be multiples of: each level but the last halves them.

    Args:
      levels: number of levels of the U-Net, the length of its channel_multipliers.
      keep_depth: D is left alone.
      fold: fold of W, at every level or one a level.
    """
    folds = one_a_level(fold, levels)
    halvings = 2 ** (levels - 1)
    return (1 if keep_depth else halvings, halvings, math.lcm(halvings, *(f * 2**i for i, f in enumerate(folds))))


class UNet(nn.Module):
    """Predicts as WDM does: residual blocks on levels of halved resolution, and skips from the way down to the way up.

    The defaults are the published model for 128^3 volumes (64^3 wavelet coefficients, 57,914,824 parameters).

    Attributes:
      out_channels: number of channels of the prediction.
      base_channels: width of the first level.
      channel_multipliers: each level's width is this times base_channels.
      blocks_per_level: residual blocks a level on the way down; the way up has one more.
      attention_factors: self-attention follows each block of the levels downsampled by these factors (1, 2, 4, ...).
      middle_attention: self-attention between the two middle blocks.
      attention_heads: heads of each attention.
      up_attention_heads: number of heads on the way up, if it differs.
      attention_head_channels: channels a head, instead of a number of heads.
      qkv_order: "heads_first" or "qkv_first", see `SelfAttention`.
      scale_shift_norm: the time scales and shifts the second norm of each block instead of being added before it.
      skip: "add", (h + skip) / 2, or "concat", the channels of h then of the skip.
      resample_blocks: resample inside a residual block (average pooling, nearest); otherwise by a convolution of stride
        2, and by nearest and a convolution.
      keep_depth: resampling leaves D alone.
      position_channels: learned channels, a number a voxel, that the first convolution sees beside x_t: 0 in the published
        models. Where all volumes share a space, as brains in an atlas do, they spare the network learning its place from
        the borders; the network is then bound to one size.
      conditions: all that the network is told besides x_t and t, each by a vector added to the time's.
      dropout: rate in the residual blocks.
      groups: number of groups of every GroupNorm; divides every level's width.
      dtype: data type of the computation; parameters, norms and the result are float32.
      remat: recompute each block's activations in the backward pass instead of keeping them, at every level or one a level.
      lowering: lowering of the convolutions, one of `conv.LOWERINGS`, at every level or one a level.
      fold: W voxels folded into channels, at every level or one a level; input and output are plain.
    """

    out_channels: int
    base_channels: int = 64
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 4, 4)
    blocks_per_level: int = 2
    attention_factors: tuple[int, ...] = ()
    middle_attention: bool = False
    attention_heads: int = 1
    up_attention_heads: int | None = None
    attention_head_channels: int | None = None
    qkv_order: str = "heads_first"
    scale_shift_norm: bool = False
    skip: str = "add"
    resample_blocks: bool = True
    keep_depth: bool = False
    position_channels: int = 0
    conditions: tuple[Condition, ...] = ()
    dropout: float = 0.0
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    remat: bool | tuple[bool, ...] = False
    lowering: str | tuple[str, ...] = "direct"
    fold: int | tuple[int, ...] = 1

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of the input must be multiples of."""
        return size_multiple(len(self.channel_multipliers), self.keep_depth, self.fold)

    @nn.compact
    def __call__(self, x_t: jax.Array, t: jax.Array, told: Told | None = None, train: bool = False) -> jax.Array:
        """Predicts for noised volumes.

        Args:
          x_t: [B, D, H, W, C]; D, H and W multiples of `size_multiple`.
          t: [B], the timesteps of the training schedule, whole or fractional.
          told: values of the conditions by name; what is missing is not known.
          train: apply dropout (needs an rng named "dropout" if its rate is not zero).

        Returns:
          [B, D, H, W, out_channels], float32.

        Raises:
          ValueError: the levels cannot halve the shape, or an attribute is none of its choices.
        """
        levels = len(self.channel_multipliers)
        if any(edge % m for edge, m in zip(x_t.shape[1:4], self.size_multiple, strict=True)):
            raise ValueError(
                f"U-Net input {x_t.shape}: {levels} levels need (D, H, W) in multiples of {self.size_multiple}"
            )
        if self.skip not in ("add", "concat"):
            raise ValueError(f"skip {self.skip!r}: choose 'add' or 'concat'")

        embedding = TimeEmbedding(self.base_channels, 4 * self.base_channels, self.dtype, name="time_embedding")(t)
        for vector in embed_conditions(self.conditions, told or {}, x_t, 4 * self.base_channels, self.dtype):
            embedding += vector
        if self.position_channels:
            shape = (*x_t.shape[1:4], self.position_channels)
            position = self.param("position", nn.initializers.normal(0.1), shape, jnp.float32)
            x_t = jnp.concatenate([x_t, jnp.broadcast_to(position, (x_t.shape[0], *shape))], axis=-1)
        h = self._conv("input_conv", self.base_channels, 0)(refold(x_t.astype(self.dtype), 1, self._fold_of(0)))

        skips, widths = [h], [self.base_channels]
        for level, multiplier in enumerate(self.channel_multipliers):
            width = multiplier * self.base_channels
            for i in range(self.blocks_per_level):
                h = self._block(f"down_{level}_block_{i}", width, level)(h, embedding, train)
                if 2**level in self.attention_factors:
                    h = self._attention(f"down_{level}_attention_{i}", width, level)(h)
                skips.append(h)
                widths.append(width)
            if level < levels - 1:
                h = self._down(f"down_{level}_resample", width, level, h, embedding, train)
                skips.append(h)
                widths.append(width)

        h = self._block("middle_block_0", width, levels - 1)(h, embedding, train)
        if self.middle_attention:
            h = self._attention("middle_attention", width, levels - 1)(h)
        h = self._block("middle_block_1", width, levels - 1)(h, embedding, train)

        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            for i in range(self.blocks_per_level + 1):
                skip = skips.pop()
                widths.pop()
                if self.skip == "add":
                    h = (h + skip) / 2
                    width = widths[-1] if widths else self.base_channels  # so that the next skip can be added
                else:
                    h = concatenate_channels(h, skip, self._fold_of(level))
                    width = multiplier * self.base_channels
                h = self._block(f"up_{level}_block_{i}", width, level)(h, embedding, train)
                if 2**level in self.attention_factors:
                    h = self._attention(f"up_{level}_attention_{i}", width, level, up=True)(h)
            if level > 0:
                h = self._up(f"up_{level}_resample", width, level, h, embedding, train)

        h = nn.silu(GroupNorm(self.groups, fold=self._fold_of(0), name="head_norm")(h))
        y = self._conv("head_conv", self.out_channels, 0, kernel_init=nn.initializers.zeros)(h)
        return refold(y, self._fold_of(0), 1).astype(jnp.float32)

    def _fold_of(self, level: int) -> int:
        return one_a_level(self.fold, len(self.channel_multipliers))[level]

    def _lowering_of(self, level: int) -> str:
        return one_a_level(self.lowering, len(self.channel_multipliers))[level]

    def _remat_of(self, level: int) -> bool:
        return one_a_level(self.remat, len(self.channel_multipliers))[level]

    def _conv(self, name: str, features: int, level: int, **options) -> Conv:
        lowering, fold = self._lowering_of(level), self._fold_of(level)
        return Conv(features, dtype=self.dtype, lowering=lowering, fold=fold, name=name, **options)

    def _block(
        self, name: str, features: int, level: int, out_level: int | None = None, resample: str | None = None
    ) -> ResidualBlock:
        out_level = level if out_level is None else out_level
        # `train` is an ordinary Python value: argument 3, counting the module itself.
        remat = self._remat_of(min(level, out_level))
        block = nn.remat(ResidualBlock, static_argnums=(3,)) if remat else ResidualBlock
        return block(
            features,
            resample=resample,
            keep_depth=self.keep_depth,
            scale_shift_norm=self.scale_shift_norm,
            dropout=self.dropout,
            groups=self.groups,
            dtype=self.dtype,
            lowering=self._lowering_of(out_level),
            fold=self._fold_of(level),
            out_fold=self._fold_of(out_level),
            name=name,
        )

    def _attention(self, name: str, width: int, level: int, up: bool = False) -> SelfAttention:
        heads = self.up_attention_heads if up and self.up_attention_heads else self.attention_heads
        if self.attention_head_channels:
            heads = width // self.attention_head_channels
        attention = nn.remat(SelfAttention) if self._remat_of(level) else SelfAttention
        return attention(heads, self.qkv_order, self.groups, self.dtype, self._fold_of(level), name=name)

    def _down(self, name: str, width: int, level: int, h: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        if self.resample_blocks:
            return self._block(name, width, level, level + 1, "down")(h, embedding, train)
        strides = (1 if self.keep_depth else 2, 2, 2)
        return self._conv(name, width, level + 1, strides=strides)(
            refold(h, self._fold_of(level), self._fold_of(level + 1))
        )

    def _up(self, name: str, width: int, level: int, h: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        if self.resample_blocks:
            return self._block(name, width, level, level - 1, "up")(h, embedding, train)
        h = nearest_2x(h, self.keep_depth, self._fold_of(level), self._fold_of(level - 1))
        return self._conv(name, width, level - 1)(h)


def one_a_level(value: T | tuple[T, ...], levels: int) -> tuple[T, ...]:
    """Expands an attribute given once for every level, or one a level, to one a level.

    Raises:
      ValueError: it is a tuple of another length.
    """
    each = value if isinstance(value, tuple) else (value,) * levels
    if len(each) != levels:
        raise ValueError(f"{value}: expected one value, or {levels}, one a level")
    return each
