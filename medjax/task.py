"""Defines what a task is: what is learned, from which batches, with which metrics."""

from typing import Any, Protocol

import jax

Arrays = Any  # a tree of jax.Array
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Task(Protocol):
    """Defines what is learned; medjax/tasks holds one file for each."""

    size_multiple: tuple[int, int, int]
    parts: tuple[str, ...]  # of the parameters, each with an optimiser of its own; () for one of all

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]: ...

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, Metrics]: ...

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> Metrics: ...  # each [B]; "val_loss" among them

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]: ...  # volumes to look at

    def sample(
        self, params: Arrays, variables: Arrays, frozen: Arrays, keys: jax.Array, conditions: Any = None
    ) -> jax.Array: ...  # a volume for each key
