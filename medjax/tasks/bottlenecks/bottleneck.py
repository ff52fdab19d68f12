"""Defines what a bottleneck is: the part of an autoencoder that keeps latents simple enough for another model to learn."""

from typing import Any, NamedTuple, Protocol

import jax

Arrays = Any
Chances = Any  # a tree of jax.Array, all that a bottleneck leaves to chance in a training step


class Passed(NamedTuple):
    """Holds what a bottleneck makes of a training batch.

    Attributes:
      latents: [B, d, h, w, c] float32, what the decoder is given; gradients pass through them to the encoder.
      loss: scalar, not weighed; gradients reach the encoder alone.
      variables: the bottleneck's after the batch.
      metrics: scalars, by name.
    """

    latents: jax.Array
    loss: jax.Array
    variables: Arrays
    metrics: dict[str, jax.Array]


class Bottleneck(Protocol):
    """Defines what stands between encoder and decoder; each is a frozen dataclass of hyper-parameters.

    Attributes:
      name: name of its loss.
      weight: weight of its loss.
      channels: number of values of a latent.
      encoder_channels: number of values that the encoder gives for each latent.
    """

    name: str
    weight: float
    channels: int
    encoder_channels: int

    def init(self, key: jax.Array) -> dict[str, Arrays]: ...  # variables, by their names among the task's

    def draw(self, keys: jax.Array, rows: jax.Array, size: tuple[int, int, int]) -> Chances: ...  # of latents (d, h, w)

    def __call__(self, encoded: jax.Array, variables: Arrays, chances: Chances) -> Passed: ...  # in training

    def latents(self, encoded: jax.Array) -> jax.Array: ...  # of what the encoder gives, without chance

    def quantize(self, variables: Arrays, latents: jax.Array) -> jax.Array: ...  # latents that the decoder knows

    def loss_by_volume(
        self, encoded: jax.Array, quantized: jax.Array
    ) -> jax.Array: ...  # [B], not weighed, without chance
