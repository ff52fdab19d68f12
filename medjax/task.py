"""Defines what a task is: what is learned, from which batches, with which metrics; and what one that draws volumes does."""

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax

Arrays = Any  # a tree of jax.Array

# What a batch may hold, each with B examples:
#   image   [B, D, H, W, C] float32 in [-1, 1]
#   latents [B, d, h, w, c] float32, prepared from volumes and in their place
#   class   [B] int32, -1 where it is not known
#   row     [B] int32, place in the whole batch, which keys what is random
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Task(Protocol):
    """Defines what is learned; medjax/tasks holds one file for each.

    Attributes:
      generates: whether volumes are drawn from it, as from a `Generator`.
      averaged: whether a moving average of its parameters is a model too.
      parts: names of the parts of the parameters that have an optimiser each; () for one optimiser of all.
      reads: names of what it takes of a batch.
      pretrained: names of what it reads and never trains, its `frozen` arrays; those behind losses are of training alone.
      weights: name of the kind of PyTorch file that holds its weights (builders/weights.py); None where there is none.
    """

    generates: ClassVar[bool]
    averaged: ClassVar[bool]
    parts: ClassVar[tuple[str, ...]]

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def pretrained(self) -> tuple[str, ...]: ...

    @property
    def weights(self) -> str | None: ...

    @property
    def size_multiple(self) -> tuple[int, int, int]: ...  # of D, H and W of a volume

    def told_spec(self, count: int) -> Batch: ...  # shapes of what is known of `count` examples and the network is told

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]: ...  # parameters and variables

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, Metrics]: ...  # gradients, variables after them, metrics with "loss"

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> Metrics: ...  # each [B]; "val_loss" among them

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]: ...  # volumes to look at


class Generator(Task, Protocol):
    """Draws volumes besides, in steps: one compiled program takes any stretch of them."""

    @property
    def steps(self) -> int: ...  # of a sample

    def begin(
        self, frozen: Arrays, keys: jax.Array, told: Mapping[str, jax.Array] | None = None, start: Batch | None = None
    ) -> Arrays: ...  # the sampler's state before the first step

    def advance(
        self,
        params: Arrays,
        variables: Arrays,
        frozen: Arrays,
        keys: jax.Array,
        state: Arrays,
        first: int | jax.Array,
        end: int | jax.Array,
    ) -> Arrays: ...  # the state after the steps first, first - 1, ..., end + 1

    def finish(self, frozen: Arrays, state: Arrays) -> jax.Array: ...  # volumes [B, D, H, W, C] in [-1, 1]
