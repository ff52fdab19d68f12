"""Brings volumes to the latents of an autoencoder (Medical Diffusion, arXiv 2211.03364), which is only read."""

import dataclasses
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp

from medjax.codecs.identity import mean_of_each, threshold_values
from medjax.layers.spatial import constrain_volume
from medjax.task import Arrays, Batch

DYNAMIC_SHARE = 0.9  # of a latent's values that a dynamic threshold leaves alone, as published


class Autoencoder(Protocol):
    """Encodes and decodes; medjax/tasks holds what trains it."""

    def encode(self, frozen: Arrays, volumes: jax.Array) -> jax.Array: ...

    def decode_latents(self, frozen: Arrays, latents: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class Latents:
    """Takes latents before quantisation for x_0, scaled to [-1, 1]. What is drawn is unscaled, quantised and decoded.

    `frozen` is {"vqgan": what the autoencoder reads, "low", "high"}: latents from low to high, a number or one a channel,
    are scaled to [-1, 1].

    Attributes:
      autoencoder: what encodes and decodes.
      size: (D, H, W) of a volume.
      downsample: divisors of D, H and W.
      channels: channels of a latent.
    """

    autoencoder: Autoencoder
    size: tuple[int, int, int]
    downsample: tuple[int, int, int]
    channels: int

    reads: ClassVar[tuple[str, ...]] = ("image", "latents")
    weights: ClassVar[str | None] = "medical_diffusion"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns (d, h, w, c) of a volume's latents."""
        return (*(edge // factor for edge, factor in zip(self.size, self.downsample, strict=True)), self.channels)

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what the autoencoder divides them by."""
        return self.downsample

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Returns (): all latents weigh the same."""
        return ()

    def encode(self, frozen: Arrays, batch: Batch) -> jax.Array:
        """Returns the scaled latents of `batch["image"]`, [B, D, H, W, 1], or of `batch["latents"]`, prepared once."""
        latents = batch["latents"] if "latents" in batch else self.autoencoder.encode(frozen["vqgan"], batch["image"])
        return jax.lax.stop_gradient(constrain_volume(scaled(latents, frozen["low"], frozen["high"])))

    def decode(self, frozen: Arrays, x_0: jax.Array) -> jax.Array:
        """Returns the volumes of scaled latents."""
        return self.autoencoder.decode_latents(frozen["vqgan"], unscaled(x_0, frozen["low"], frozen["high"]))

    def threshold(self, how: str, x_0: jax.Array) -> jax.Array:
        """Keeps scaled latents in [-1, 1]."""
        return threshold_values(how, x_0, DYNAMIC_SHARE)

    def part_means(self, values: jax.Array) -> jax.Array:
        """Averages each example: [B, *shape] to [B, 1]."""
        return mean_of_each(values)

    def codebook_range(self, codebook: Arrays) -> tuple[jax.Array, jax.Array]:
        """Finds the least and the greatest number in the codebook, each [c]: `low` and `high` as published."""
        embeddings = codebook["embeddings"]
        return tuple(jnp.full((self.channels,), extreme(embeddings)) for extreme in (jnp.min, jnp.max))


def scaled(latents: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Brings what lies from low to high, a number or [c], of latents [..., c] to [-1, 1]."""
    return (latents - low) / (high - low) * 2 - 1


def unscaled(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Inverts `scaled`."""
    return (x + 1) / 2 * (high - low) + low
