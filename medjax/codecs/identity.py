"""Leaves volumes as they are: diffusion on voxels, the 3D DDPM that WDM is compared with."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from medjax.diffusion.thresholds import threshold_dynamically
from medjax.task import Arrays, Batch


@dataclasses.dataclass(frozen=True)
class Identity:
    """Takes a volume itself for x_0.

    Attributes:
      size: (D, H, W) of a volume.
      channels: C of a volume.
      dynamic_share: share of a volume's voxels that a dynamic threshold leaves alone.
    """

    size: tuple[int, int, int]
    channels: int = 1
    dynamic_share: float = 0.995

    reads: ClassVar[tuple[str, ...]] = ("image",)
    weights: ClassVar[str | None] = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns (D, H, W, C)."""
        return (*self.size, self.channels)

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns 1 each."""
        return 1, 1, 1

    @property
    def loss_parts(self) -> tuple[str, ...]:
        """Returns (): all voxels weigh the same."""
        return ()

    def encode(self, frozen: Arrays, batch: Batch) -> jax.Array:
        """Returns `batch["image"]`."""
        del frozen
        return batch["image"]

    def decode(self, frozen: Arrays, x_0: jax.Array) -> jax.Array:
        """Returns x_0."""
        del frozen
        return x_0

    def threshold(self, how: str, x_0: jax.Array) -> jax.Array:
        """Keeps values in [-1, 1]."""
        return threshold_values(how, x_0, self.dynamic_share)

    def part_means(self, values: jax.Array) -> jax.Array:
        """Averages each example: [B, *shape] to [B, 1]."""
        return mean_of_each(values)


def threshold_values(how: str, x: jax.Array, dynamic_share: float) -> jax.Array:
    """Keeps values in [-1, 1]: clamped, or each example divided by what its largest leave; or leaves them ("none")."""
    match how:
        case "clamp":
            return jnp.clip(x, -1, 1)
        case "dynamic":
            return threshold_dynamically(x, dynamic_share)
    return x


def mean_of_each(values: jax.Array) -> jax.Array:
    """Averages each example: [B, ...] to [B, 1]."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))[:, None]
