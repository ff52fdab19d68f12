"""Holds what a network may be told besides x_t and t, each thing a `Condition`, and embeds it."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from medjax.layers.embeddings import LabelEmbedding, unknown_labels

Told = Mapping[str, jax.Array]  # by the condition's name, each [B, ...]; what is missing is not known


@dataclasses.dataclass(frozen=True)
class Condition:
    """Names one thing that a network may be told.

    Attributes:
      name: key in a batch, such as "class".
      enters: way into the network; "class": a whole number a volume, -1 where it is not known, as a learned vector.
      classes: number of classes, 0 .. classes - 1.
      dropout: share of the training examples from which it is withheld, so that sampling can do without it too.
    """

    name: str
    enters: str
    classes: int = 0
    dropout: float = 0.1

    def spec(self, count: int) -> jax.ShapeDtypeStruct:
        """Returns shape and dtype of a batch of `count`."""
        return jax.ShapeDtypeStruct((count,), jnp.int32)

    def unknown_like(self, x: jax.Array) -> jax.Array:
        """Returns what says of each example of x [B, ...] that nothing is known."""
        return unknown_labels(x)

    def withheld(self, values: jax.Array, told: jax.Array) -> jax.Array:
        """Returns the values [B, ...] with those made unknown that are not to be told, by a mask [B]."""
        return jnp.where(told, values, self.unknown_like(values))


def completed(conditions: Sequence[Condition], told: Told, x: jax.Array) -> dict[str, jax.Array]:
    """Returns every condition's values for the examples of x [B, ...], unknown where `told` lacks them."""
    return {each.name: told[each.name] if each.name in told else each.unknown_like(x) for each in conditions}


def embed_conditions(
    conditions: Sequence[Condition], told: Told, x: jax.Array, features: int, dtype: jnp.dtype
) -> list[jax.Array]:
    """Embeds each condition as a vector [B, features], inside a compact method of the network that is told it.

    Args:
      conditions: those of the network.
      told: values by name; what is missing is not known.
      x: anything [B, ...] of the same examples.
      features: width of each vector.
      dtype: dtype of the vectors; parameters are float32.

    Raises:
      ValueError: a condition enters in a way that there is not.
    """
    vectors = []
    values = completed(conditions, told, x)
    for each in conditions:
        if each.enters != "class":
            raise ValueError(f"condition {each.name!r} enters as {each.enters!r}: there is 'class' only")
        # The name that checkpoints of labelled models have had from the beginning.
        vectors.append(LabelEmbedding(each.classes, features, dtype, name="label_embedding")(values[each.name]))
    return vectors
