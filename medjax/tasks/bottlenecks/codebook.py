"""The bottleneck of a VQ-GAN: each latent is replaced by the nearest of a codebook, which follows them (models/codebook.py)."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medjax.models import codebook as codebooks
from medjax.models.codebook import Draw
from medjax.tasks.bottlenecks.bottleneck import Passed

Arrays = Any


class Draws(NamedTuple):
    """Says which latents become codes.

    Attributes:
      first_codes: the latents that a codebook begins with.
      restarts: those that restarted codes become.
    """

    first_codes: Draw
    restarts: Draw


@dataclasses.dataclass(frozen=True)
class Codebook:
    """A codebook. Its variables are {"codebook"}, as models/codebook.py has it.

    Attributes:
      channels: number of values of a latent, and of a code.
      codes: number of codes.
      decay: decay of the codes' moving averages.
      weight: weight of the latents' mean squared distance from their codes, the commitment.
      restart_threshold: average uses a batch below which a code starts again; 0: none does.
      restart_statistics: whether their averages start again too; not so in the published code.
    """

    channels: int = 8
    codes: int = 16_384
    decay: float = 0.99
    weight: float = 0.25
    restart_threshold: float = 1.0
    restart_statistics: bool = True

    name = "commitment"

    @property
    def encoder_channels(self) -> int:
        """Number of values that the encoder gives for each latent."""
        return self.channels

    def init(self, key: jax.Array) -> dict[str, Arrays]:
        """A codebook of random codes, which the first batch replaces."""
        return {"codebook": codebooks.empty(key, self.codes, self.channels)}

    def draw(self, keys: jax.Array, rows: jax.Array, size: tuple[int, int, int]) -> Draws:
        """Draws the latents, of a batch of these rows and latents (d, h, w), that codes begin with.

        Args:
          keys: [2].
        """
        count = rows.size * math.prod(size)
        return Draws(*(codebooks.draw(key, count, self.codes, self.channels) for key in (keys[0], keys[1])))

    def __call__(self, encoded: jax.Array, variables: Arrays, chances: Draws) -> Passed:
        """The latents' codes, through which gradients pass as if they were the latents; the codebook follows these."""
        learned = codebooks.learn(
            variables["codebook"],
            encoded,
            chances.first_codes,
            chances.restarts,
            decay=self.decay,
            restart_threshold=self.restart_threshold,
            restart_statistics=self.restart_statistics,
        )
        metrics = {
            "codebook/perplexity": codebooks.perplexity(learned.used),
            "codebook/used": jnp.mean(learned.used > 0),
            "codebook/restarted": learned.restarted / self.codes,
        }
        return Passed(learned.quantized, learned.distance, {"codebook": learned.codebook}, metrics)

    def latents(self, encoded: jax.Array) -> jax.Array:
        """Latents before quantisation: what the encoder gives."""
        return encoded

    def quantize(self, variables: Arrays, latents: jax.Array) -> jax.Array:
        """The nearest code of each latent."""
        return codebooks.quantize(variables["codebook"], latents)

    def loss_by_volume(self, encoded: jax.Array, quantized: jax.Array) -> jax.Array:
        """The mean squared distance of each volume's latents from their codes, [B]."""
        return jnp.mean((encoded - quantized) ** 2, axis=(1, 2, 3, 4))
