"""Defines WDM's wavelet U-Net (arXiv 2402.19043): a U-Net whose levels are joined by Haar transforms."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.attention import SelfAttention
from medjax.layers.conditions import Condition, Told, embed_conditions
from medjax.layers.conv import Conv
from medjax.layers.embeddings import TimeEmbedding
from medjax.layers.fold import refold
from medjax.layers.normalization import GroupNorm
from medjax.layers.wavelet_resample import haar_bands
from medjax.models.blocks import ResidualBlock
from medjax.models.unet import one_a_level
from medjax.models.wavelet_blocks import WaveletDownBlock, WaveletUpBlock


class WaveletUNet(nn.Module):
    """Predicts as WDM's second network does: what a level loses on the way down is what its counterpart gets back going up.

    Every level, the last too, ends in a block that halves the resolution: LLL goes on and the seven other subbands wait
    for the way up, where an inverse transform takes them in place of a skip connection. A pyramid brings all subbands of
    each level's input to the next one by a single convolution. The way up applies the last plain block of a level twice.

    The defaults are the published model for 128^3 volumes (64^3 wavelet coefficients, 89,706,056 parameters). Attention is
    where the published code makes room for it; that code cannot run it.

    Attributes:
      out_channels: number of channels of the prediction.
      base_channels: width of the first level.
      channel_multipliers: each level's width is this times base_channels.
      blocks_per_level: residual blocks a level, on the way down, on the way up, and before the head; 2 or more where
        widths differ.
      attention_factors: self-attention follows each plain block of the levels downsampled by these factors (1, 2, 4, ...).
      middle_attention: self-attention between the two middle blocks.
      attention_heads: heads of each attention.
      up_attention_heads: number of heads on the way up, if it differs.
      attention_head_channels: channels a head, instead of a number of heads.
      qkv_order: "heads_first" or "qkv_first", see `SelfAttention`.
      scale_shift_norm: the time scales and shifts the second norm of each block instead of being added before it.
      conditions: all that the network is told besides x_t and t, each by a vector added to the time's.
      dropout: rate in the residual blocks.
      groups: number of groups of every GroupNorm; divides every level's width.
      dtype: data type of the computation; parameters, norms, Haar transforms and the result are float32.
      remat: recompute each block's activations in the backward pass instead of keeping them, at every resolution or one a
        resolution; there is one more of them than there are levels.
      lowering: lowering of every convolution, one of `conv.LOWERINGS`.
      fold: W voxels folded into channels, at every resolution or one a resolution; input and output are plain.
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
    conditions: tuple[Condition, ...] = ()
    dropout: float = 0.0
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    remat: bool | tuple[bool, ...] = False
    lowering: str = "direct"
    fold: int | tuple[int, ...] = 1

    @property
    def resolutions(self) -> int:
        """Counts the resolutions, the bottom's included, which is no level's."""
        return len(self.channel_multipliers) + 1

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of the input must be multiples of: each level halves them."""
        halvings = 2 ** (self.resolutions - 1)
        folds = one_a_level(self.fold, self.resolutions)
        return halvings, halvings, math.lcm(halvings, *(f * 2**i for i, f in enumerate(folds)))

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
          ValueError: the levels cannot halve the shape, or a level's only block cannot be applied twice.
        """
        levels = len(self.channel_multipliers)
        if any(edge % m for edge, m in zip(x_t.shape[1:4], self.size_multiple, strict=True)):
            raise ValueError(
                f"wavelet U-Net input {x_t.shape}: {levels} levels need (D, H, W) in multiples of {self.size_multiple}"
            )
        if self.blocks_per_level < 2 and len(set(self.channel_multipliers)) > 1:
            raise ValueError(
                f"blocks_per_level {self.blocks_per_level}: a level's last block is applied twice, so one before it must "
                "change the width; choose 2 or more"
            )
        embedding = TimeEmbedding(self.base_channels, 4 * self.base_channels, self.dtype, name="time_embedding")(t)
        for vector in embed_conditions(self.conditions, told or {}, x_t, 4 * self.base_channels, self.dtype):
            embedding += vector
        h = pyramid = refold(x_t, 1, self._fold_of(0))
        h = self._conv("input_conv", self.base_channels, 0)(h)

        details = []
        for level, multiplier in enumerate(self.channel_multipliers):
            width = multiplier * self.base_channels
            for i in range(self.blocks_per_level):
                h = self._stage(f"down_{level}", i, width, level)(h, embedding, train)
            down = self._block(WaveletDownBlock, f"down_{level}_resample", width, level, level + 1)
            h, high = down(h, embedding, train)
            details.append(high)
            bands = haar_bands(pyramid, self._fold_of(level), self._fold_of(level + 1))
            h = pyramid = h + self._conv(f"down_{level}_pyramid", width, level + 1)(bands)

        h = self._block(ResidualBlock, "middle_block_0", width, levels)(h, embedding, train)
        if self.middle_attention:
            h = self._attention("middle_attention", width, levels)(h)
        h = self._block(ResidualBlock, "middle_block_1", width, levels)(h, embedding, train)

        for level, multiplier in reversed(list(enumerate(self.channel_multipliers))):
            width = multiplier * self.base_channels
            for i in range(self.blocks_per_level):
                stage = self._stage(f"up_{level}", i, width, level + 1)
                h = stage(h, embedding, train)
            h = stage(h, embedding, train)  # once more, with the same weights, as published
            up = self._block(WaveletUpBlock, f"up_{level}_resample", width, level + 1, level)
            h = up(h, embedding, train, details.pop())

        for i in range(self.blocks_per_level):
            h = self._block(ResidualBlock, f"head_block_{i}", width, 0)(h, embedding, train)
        h = nn.silu(GroupNorm(self.groups, fold=self._fold_of(0), name="head_norm")(h))
        y = self._conv("head_conv", self.out_channels, 0)(h)
        return refold(y, self._fold_of(0), 1).astype(jnp.float32)

    def _fold_of(self, resolution: int) -> int:
        return one_a_level(self.fold, self.resolutions)[resolution]

    def _remat_of(self, resolution: int) -> bool:
        return one_a_level(self.remat, self.resolutions)[resolution]

    def _conv(self, name: str, features: int, resolution: int) -> Conv:
        fold = self._fold_of(resolution)
        return Conv(features, dtype=self.dtype, lowering=self.lowering, fold=fold, name=name)

    def _block(
        self, kind: type[ResidualBlock], name: str, features: int, resolution: int, out_resolution: int | None = None
    ) -> ResidualBlock:
        out_resolution = resolution if out_resolution is None else out_resolution
        # `train` is an ordinary Python value: argument 3, counting the module itself.
        if self._remat_of(min(resolution, out_resolution)):
            kind = nn.remat(kind, static_argnums=(3,))
        return kind(
            features,
            scale_shift_norm=self.scale_shift_norm,
            dropout=self.dropout,
            groups=self.groups,
            dtype=self.dtype,
            lowering=self.lowering,
            fold=self._fold_of(resolution),
            out_fold=self._fold_of(out_resolution),
            name=name,
        )

    def _stage(
        self, path: str, i: int, width: int, resolution: int
    ) -> Callable[[jax.Array, jax.Array, bool], jax.Array]:
        """Makes a plain block, and attention where it is due."""
        block = self._block(ResidualBlock, f"{path}_block_{i}", width, resolution)
        if 2**resolution not in self.attention_factors:
            return block
        attention = self._attention(f"{path}_attention_{i}", width, resolution, up=path.startswith("up"))
        return lambda h, embedding, train: attention(block(h, embedding, train))

    def _attention(self, name: str, width: int, resolution: int, up: bool = False) -> SelfAttention:
        heads = self.up_attention_heads if up and self.up_attention_heads else self.attention_heads
        if self.attention_head_channels:
            heads = width // self.attention_head_channels
        attention = nn.remat(SelfAttention) if self._remat_of(resolution) else SelfAttention
        return attention(heads, self.qkv_order, self.groups, self.dtype, self._fold_of(resolution), name=name)
