"""Defines the autoencoder of Medical Diffusion's 3D VQ-GAN (arXiv 2211.03364): a volume to a few latent channels and back."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.layers.batch_norm import BatchNorm
from medjax.layers.conv import Conv, same_padding
from medjax.layers.conv_transpose import ConvTranspose
from medjax.layers.normalization import GroupNorm
from medjax.layers.spatial import Triple


def strides_by_level(downsample: Triple) -> tuple[Triple, ...]:
    """Returns how each resampling level strides (D, H, W); an axis that needs fewer halvings than others has them first.

    Raises:
      ValueError: a factor is not a power of two, or none exceeds 1.
    """
    halvings = [int(math.log2(max(1, factor))) for factor in downsample]
    if [2**times for times in halvings] != list(downsample) or not any(halvings):
        raise ValueError(f"downsampling by {tuple(downsample)}: give powers of two, one of them 2 or more")
    return tuple(tuple(2 if level < times else 1 for times in halvings) for level in range(max(halvings)))


class VQGANBlock(nn.Module):
    """Applies two convolutions of kernel 3, each after a norm and SiLU, around which the input goes too.

    Attributes:
      norm: "group" or "batch".
      groups: number of groups of the group norms.
      dtype: data type of the computation.
      lowering: lowering of the convolutions.
    """

    norm: str = "group"
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    lowering: str = "direct"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps [B, D, H, W, C] to the same shape."""
        h = x
        for i in ("1", "2"):
            h = activated(h, self.norm, self.groups, train, f"norm_{i}")
            h = Conv(x.shape[-1], fill="replicate", dtype=self.dtype, lowering=self.lowering, name=f"conv_{i}")(h)
        return x + h


class Encoder(nn.Module):
    """Encodes volumes as latents, before quantisation.

    Attributes:
      out_channels: number of values for each latent.
      base_channels: width of the first convolution; each level doubles it.
      downsample: factors along (D, H, W), powers of two.
      norm: "group" or "batch".
      groups: number of groups of the group norms; divides every level's width.
      padding: values around volumes where they are resampled: one of `spatial.FILLS`.
      dtype: data type of the computation; parameters and the result are float32.
      remat: recompute the blocks' activations in the backward pass, one flag a level.
      lowering: lowering of the convolutions.
    """

    out_channels: int = 8
    base_channels: int = 16
    downsample: Triple = (4, 4, 4)
    norm: str = "group"
    groups: int = 32
    padding: str = "replicate"
    dtype: jnp.dtype = jnp.float32
    remat: tuple[bool, ...] = ()
    lowering: str = "direct"

    @nn.compact
    def __call__(self, volumes: jax.Array, train: bool = False) -> jax.Array:
        """Encodes [B, D, H, W, C] as [B, d, h, w, out_channels], float32; D, H and W multiples of `downsample`."""
        conv = {"fill": self.padding, "dtype": self.dtype, "lowering": self.lowering}
        h = Conv(self.base_channels, **conv, name="input_conv")(volumes.astype(self.dtype))
        for level, strides in enumerate(strides_by_level(self.downsample)):
            kernel, width = (4, 4, 4), self.base_channels * 2 ** (level + 1)
            h = Conv(width, kernel, strides, same_padding(kernel, strides), **conv, name=f"down_{level}_conv")(h)
            block = block_class(self.remat, level)
            h = block(self.norm, self.groups, self.dtype, self.lowering, name=f"down_{level}_block")(h, train)
        h = activated(h, self.norm, self.groups, train, "head_norm")
        latents = Conv(self.out_channels, (1, 1, 1), dtype=self.dtype, lowering=self.lowering, name="latent_conv")(h)
        return latents.astype(jnp.float32)


class Decoder(nn.Module):
    """Decodes quantised latents to volumes; attributes as in `Encoder`.

    Attributes:
      out_channels: number of channels of a volume.
    """

    out_channels: int = 1
    base_channels: int = 16
    downsample: Triple = (4, 4, 4)
    norm: str = "group"
    groups: int = 32
    dtype: jnp.dtype = jnp.float32
    remat: tuple[bool, ...] = ()
    lowering: str = "direct"

    @nn.compact
    def __call__(self, latents: jax.Array, train: bool = False) -> jax.Array:
        """Decodes [B, d, h, w, c] to [B, D, H, W, out_channels], float32, not clipped."""
        levels = strides_by_level(self.downsample)
        conv = {"dtype": self.dtype, "lowering": self.lowering}
        width = self.base_channels * 2 ** len(levels)
        h = Conv(width, (1, 1, 1), **conv, name="latent_conv")(latents.astype(self.dtype))
        h = activated(h, self.norm, self.groups, train, "input_norm")
        for level, strides in enumerate(levels):
            width = self.base_channels * 2 ** (len(levels) - level)
            h = ConvTranspose(width, strides, **conv, name=f"up_{level}_conv")(h)
            block = block_class(self.remat, len(levels) - 1 - level)
            for i in range(2):
                h = block(self.norm, self.groups, **conv, name=f"up_{level}_block_{i}")(h, train)
        return Conv(self.out_channels, fill="replicate", **conv, name="output_conv")(h).astype(jnp.float32)


def activated(x: jax.Array, norm: str, groups: int, train: bool, name: str) -> jax.Array:
    """Applies a norm and SiLU; to be called inside a module's `__call__`, whose submodule `name` becomes.

    Raises:
      ValueError: the norm is neither "group" nor "batch".
    """
    match norm:
        case "group":
            return nn.silu(GroupNorm(groups, epsilon=1e-6, name=name)(x))
        case "batch":
            return nn.silu(BatchNorm(name=name)(x, train))
    raise ValueError(f"norm {norm!r}: choose 'group' or 'batch'")


def block_class(remat: tuple[bool, ...], level: int) -> type[VQGANBlock]:
    """Makes a `VQGANBlock`, recomputed in the backward pass if this level's flag says so."""
    # `train` is an ordinary Python value: argument 2, counting the module itself.
    return nn.remat(VQGANBlock, static_argnums=(2,)) if remat and remat[level] else VQGANBlock
