"""Brings volumes to the Haar transform of an autoencoder's latents: both codecs, one after the other."""

import dataclasses
from typing import ClassVar

import jax

from medjax.codecs.haar import Haar
from medjax.codecs.latents import Latents
from medjax.task import Arrays, Batch


@dataclasses.dataclass(frozen=True)
class HaarOfLatents:
    """Takes the Haar coefficients of scaled latents for x_0: an eighth of the places, eight times the channels.

    Attributes:
      latents: codec of the volumes.
      haar: codec of what that makes of them.
    """

    latents: Latents
    haar: Haar

    reads: ClassVar[tuple[str, ...]] = ("image", "latents")
    weights: ClassVar[str | None] = None

    @property
    def size(self) -> tuple[int, int, int]:
        """Returns (D, H, W) of a volume."""
        return self.latents.size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns the shape of the coefficients."""
        return self.haar.shape

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns the product of what both ask."""
        return tuple(a * b for a, b in zip(self.latents.size_multiple, self.haar.size_multiple, strict=True))

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Returns the names of the subbands."""
        return self.haar.loss_parts

    def encode(self, frozen: Arrays, batch: Batch) -> jax.Array:
        """Encodes as `Latents` does, then transforms."""
        return self.haar.encode({}, {"image": self.latents.encode(frozen, batch)})

    def decode(self, frozen: Arrays, x_0: jax.Array) -> jax.Array:
        """Transforms back, then decodes as `Latents` does."""
        return self.latents.decode(frozen, self.haar.decode({}, x_0))

    def threshold(self, how: str, x_0: jax.Array) -> jax.Array:
        """Keeps the scaled latents that coefficients mean in [-1, 1]."""
        return self.haar.threshold(how, x_0)

    def part_means(self, values: jax.Array) -> jax.Array:
        """Averages each example in each subband: [B, *shape] to [B, 8]."""
        return self.haar.part_means(values)
