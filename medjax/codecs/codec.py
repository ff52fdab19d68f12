"""Defines what a codec is: how volumes become x_0, which diffusion learns, and x_0 becomes volumes again."""

from typing import ClassVar, Protocol

import jax

from medjax.task import Arrays, Batch


class Codec(Protocol):
    """Brings volumes to the space in which diffusion runs, and back.

    Attributes:
      size: (D, H, W) of a volume.
      shape: shape of one x_0, channels last.
      size_multiple: what D, H and W of a volume must be multiples of, before the network asks for more.
      reads: names of what it takes of a batch, any one of which will do.
      weights: name of the kind of published file of such a model (builders/weights.py); None where there is none.
      loss_parts: names of what the loss is averaged over, one after the other; () where it is all one.
    """

    size: tuple[int, int, int]
    reads: ClassVar[tuple[str, ...]]
    weights: ClassVar[str | None]

    @property
    def shape(self) -> tuple[int, int, int, int]: ...

    @property
    def size_multiple(self) -> tuple[int, int, int]: ...

    @property
    def loss_parts(self) -> tuple[str, ...]: ...

    def encode(self, frozen: Arrays, batch: Batch) -> jax.Array: ...  # "image" [B, D, H, W, C] to x_0 [B, *shape]

    def decode(self, frozen: Arrays, x_0: jax.Array) -> jax.Array: ...  # to [B, D, H, W, C], not clipped

    def threshold(self, how: str, x_0: jax.Array) -> jax.Array: ...  # how: one of THRESHOLDS

    def part_means(self, values: jax.Array) -> jax.Array: ...  # [B, *shape] to [B, parts]


THRESHOLDS = ("clamp", "dynamic", "none")
