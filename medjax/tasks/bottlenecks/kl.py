"""The bottleneck of latent diffusion's autoencoder (arXiv 2112.10752): normal distributions that are pulled towards N(0, 1).

For each latent the encoder gives a mean and the logarithm of a variance, not a value. In training the decoder is given a
sample of them (the reparametrisation of arXiv 1312.6114), afterwards the means. Nothing is quantised.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from medjax.tasks.bottlenecks.bottleneck import Passed
from medjax.tasks.denoising import normal_by_row

Arrays = Any

LOG_VARIANCES = (-30.0, 20.0)  # the least and the greatest, as in the published code


@dataclasses.dataclass(frozen=True)
class KL:
    """Pulls the distribution of each latent towards N(0, 1) by the Kullback-Leibler divergence. It has no variables.

    The divergence is summed over the latents of a volume and averaged over volumes, as in the published code of latent
    diffusion. There the reconstruction's error is summed over a volume too; here it is a mean over voxels, as in MONAI's 3D
    autoencoders, so the same weight pulls the harder the more voxels a volume has.

    Attributes:
      channels: number of values of a latent.
      weight: weight of the divergence.
    """

    channels: int = 8
    weight: float = 1e-6

    name = "kl"

    @property
    def encoder_channels(self) -> int:
        """Number of values that the encoder gives for each latent: means, then log variances."""
        return 2 * self.channels

    def init(self, key: jax.Array) -> dict[str, Arrays]:
        """Returns no variables."""
        del key
        return {}

    def draw(self, keys: jax.Array, rows: jax.Array, size: tuple[int, int, int]) -> jax.Array:
        """Standard normal noise [B, d, h, w, c], each example's by its row.

        Args:
          keys: [2], of which the first is used.
        """
        return normal_by_row(keys[0], rows, (*size, self.channels))

    def __call__(self, encoded: jax.Array, variables: Arrays, chances: jax.Array) -> Passed:
        """A sample of each latent's distribution: the mean, and the deviation times noise, which gradients pass through."""
        del variables
        mean, log_variance = moments(encoded)
        deviation = jnp.exp(0.5 * log_variance)
        loss = jnp.mean(divergence(mean, log_variance))
        metrics = {
            "kl": loss,
            "latents/deviation": jnp.std(mean),
            "latents/noise": jnp.mean(deviation),
        }
        return Passed(mean + deviation * chances, loss, {}, lax.stop_gradient(metrics))

    def latents(self, encoded: jax.Array) -> jax.Array:
        """The mean of each latent's distribution."""
        return moments(encoded)[0]

    def quantize(self, variables: Arrays, latents: jax.Array) -> jax.Array:
        """The latents as they are."""
        del variables
        return latents

    def loss_by_volume(self, encoded: jax.Array, quantized: jax.Array) -> jax.Array:
        """The divergence of each volume's latents, [B]."""
        del quantized
        return divergence(*moments(encoded))


def moments(encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The means and the log variances, each [B, d, h, w, c], of what an encoder gives, [B, d, h, w, 2c]."""
    mean, log_variance = jnp.split(encoded, 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOG_VARIANCES)


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """The divergence of N(mean, variance) from N(0, 1) in nats, summed over each volume's latents, [B] (arXiv 1312.6114, B)."""
    values = 0.5 * (mean**2 + jnp.exp(log_variance) - 1.0 - log_variance)
    return jnp.sum(values, axis=(1, 2, 3, 4))
