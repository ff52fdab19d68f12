"""Brings volumes to the eight subbands of their 3D Haar transform (WDM, arXiv 2402.19043)."""

import dataclasses
from typing import ClassVar

import jax

from medjax.diffusion.wavelet_domain import (
    LLL_BY_3,
    Scale,
    clamp_in_image_space,
    from_wavelet_domain,
    subband_means,
    threshold_dynamically,
    to_wavelet_domain,
)
from medjax.task import Arrays, Batch
from medjax.wavelets import SUBBANDS


@dataclasses.dataclass(frozen=True)
class Haar:
    """Takes the coefficients of a volume for x_0, each subband divided by its scale.

    White noise stays white under an orthonormal transform, so noise is drawn in the wavelet domain directly.

    Attributes:
      size: (D, H, W) of a volume, even.
      channels: C of a volume.
      scale: divisors of LLL .. HHH.
      dynamic_share: share of a volume's voxels that a dynamic threshold leaves alone.
    """

    size: tuple[int, int, int]
    channels: int = 1
    scale: Scale = LLL_BY_3
    dynamic_share: float = 0.995

    reads: ClassVar[tuple[str, ...]] = ("image",)
    weights: ClassVar[str | None] = "wdm"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns (D/2, H/2, W/2, 8C)."""
        return (*(edge // 2 for edge in self.size), 8 * self.channels)

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns 2 each: the transform halves them."""
        return 2, 2, 2

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Returns the names of the subbands, each of which weighs the same in the loss."""
        return SUBBANDS

    def encode(self, frozen: Arrays, batch: Batch) -> jax.Array:
        """Transforms `batch["image"]`, [B, D, H, W, C]."""
        del frozen
        return to_wavelet_domain(batch["image"], self.scale)

    def decode(self, frozen: Arrays, x_0: jax.Array) -> jax.Array:
        """Transforms coefficients [B, *shape] back."""
        del frozen
        return from_wavelet_domain(x_0, self.scale)

    def threshold(self, how: str, x_0: jax.Array) -> jax.Array:
        """Keeps the voxels that coefficients mean in [-1, 1]."""
        match how:
            case "clamp":
                return clamp_in_image_space(x_0, self.scale)
            case "dynamic":
                return threshold_dynamically(x_0, self.scale, self.dynamic_share)
        return x_0

    def part_means(self, values: jax.Array) -> jax.Array:
        """Averages each example in each subband: [B, *shape] to [B, 8]."""
        return subband_means(values)
