"""Computes what a generator and its discriminators ask of each other: the losses of a GAN, and gradients once it begins."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from medjax.models.discriminators import Features

Arrays = Any

KINDS = ("hinge", "vanilla")


class Judgement(NamedTuple):
    """Holds what a discriminator makes of what is real and of what was generated.

    Attributes:
      real_logits, fake_logits: one a patch.
      real_features, fake_features: of each of its layers.
    """

    real_logits: jax.Array
    fake_logits: jax.Array
    real_features: list[Features]
    fake_features: list[Features]


class Verdict(NamedTuple):
    """Holds what follows from the judgements for both sides, without share or scale; all zero before the discriminators begin.

    Attributes:
      adversary, features: the generator's losses, by `Adversary.generator_loss` and `Adversary.feature_distance`.
      discriminator: the discriminators' loss.
      asked: gradients of the generator's losses with respect to what was generated: where the adversary is adaptive, of
        the one and of the other; else of their sum alone.
      grads: gradients of the discriminators' loss with respect to their parameters.
      statistics: the discriminators' running statistics; before they begin, as they were.
      metrics: what there is to tell of the logits.
    """

    adversary: jax.Array
    features: jax.Array
    discriminator: jax.Array
    asked: tuple[Arrays, ...]
    grads: Arrays
    statistics: Arrays
    metrics: dict[str, jax.Array]


# Of (the discriminators' parameters, what was generated): judgements by name; running statistics after them, and metrics.
Judge = Callable[[Arrays, Arrays], tuple[dict[str, Judgement], tuple[Arrays, dict[str, jax.Array]]]]


@dataclasses.dataclass(frozen=True)
class Adversary:
    """How discriminators of slices and of volumes are weighed, and when they begin.

    Attributes:
      image: weight of the discriminator of slices; 0: there is none.
      volume: of that of volumes.
      features: of the distance between the features of what is real and of what was generated.
      kind: of the discriminators' loss, one of `KINDS`.
      start: the step at which they begin; before, they neither learn nor teach.
      ramp: steps from then on over which what they teach grows to its weight.
      adaptive: what they teach is scaled to the gradient of the other losses at the last layer (arXiv 2012.09841, 6), before
        its weight and its share.
    """

    image: float = 1.0
    volume: float = 1.0
    features: float = 4.0
    kind: str = "hinge"
    start: int = 10_000
    ramp: int = 0
    adaptive: bool = False

    @property
    def weights(self) -> dict[str, float]:
        """Returns the weight of each discriminator that there is, by name."""
        return {name: weight for name, weight in (("image", self.image), ("volume", self.volume)) if weight > 0}

    def verdict(
        self, judge: Judge, discriminator: Arrays, generated: Arrays, statistics: Arrays, step: jax.Array
    ) -> Verdict:
        """The verdict on what was generated. Before `start` no discriminator is run: it costs nothing.

        Args:
          judge: runs the discriminators.
          discriminator: their parameters.
          generated: what they judge, by their names.
          statistics: their running statistics.
          step: the same on every device, so that all take the same branch.
        """

        def now() -> Verdict:
            judgements, pull, (after, metrics) = jax.vjp(judge, discriminator, generated, has_aux=True)
            adversary, by_adversary = jax.value_and_grad(self.generator_loss)(judgements)
            features, by_features = jax.value_and_grad(self.feature_distance)(judgements)
            loss, by_loss = jax.value_and_grad(self.discriminator_loss)(judgements)
            asked = (
                (by_adversary, by_features) if self.adaptive else (jax.tree.map(jnp.add, by_adversary, by_features),)
            )
            # What either side asks of the judgements goes back by itself, so that neither loss reaches the other's
            # parameters. The half that is not used is never computed.
            asked = tuple(pull(gradient)[1] for gradient in asked)
            return Verdict(adversary, features, loss, asked, pull(by_loss)[0], after, metrics)

        def not_yet() -> Verdict:
            nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(now))
            return nothing._replace(statistics=statistics)

        return lax.cond(step >= self.start, now, not_yet)

    def scale(self, wanted: jax.Array, found: jax.Array) -> jax.Array:
        """Returns what the generator's loss is multiplied by where it is adaptive, 0 to 10 000.

        It brings discriminators of weight 1 up to the other losses; others stay the smaller or the larger by their weight.

        Args:
          wanted: the length of the other losses' gradient at the last layer.
          found: that of the generator's loss, `generator_loss`.
        """
        weights = self.weights.values()
        return jnp.clip(wanted / (found * len(weights) / sum(weights) + 1e-4), 0.0, 1e4)

    def begun(self, step: jax.Array) -> jax.Array:
        """1.0 from `start` on, 0.0 before."""
        return (step >= self.start).astype(jnp.float32)

    def share(self, step: jax.Array) -> jax.Array:
        """The share of its weight that what they teach has, 0 to 1."""
        return self.begun(step) * jnp.clip((step - self.start + 1) / max(1, self.ramp), 0.0, 1.0)

    def generator_loss(self, judgements: dict[str, Judgement]) -> jax.Array:
        """Less the more the discriminators are fooled."""
        return -sum(weight * jnp.mean(judgements[name].fake_logits) for name, weight in self.weights.items())

    def feature_distance(self, judgements: dict[str, Judgement]) -> jax.Array:
        """The mean absolute difference of the features, summed over layers and discriminators, weighed."""
        return self.features * sum(feature_distance(judgements[name]) for name in self.weights)

    def discriminator_loss(self, judgements: dict[str, Judgement]) -> jax.Array:
        """Less the better the discriminators tell what is real."""
        loss = {"hinge": hinge, "vanilla": vanilla}[self.kind]
        return sum(weight * loss(judgements[name]) for name, weight in self.weights.items())


def hinge(judgement: Judgement) -> jax.Array:
    """Logits beyond 1 of the right sign cost nothing (arXiv 1705.02894)."""
    real, fake = nn.relu(1.0 - judgement.real_logits), nn.relu(1.0 + judgement.fake_logits)
    return 0.5 * (jnp.mean(real) + jnp.mean(fake))


def vanilla(judgement: Judgement) -> jax.Array:
    """Cross entropy (arXiv 1406.2661)."""
    real, fake = nn.softplus(-judgement.real_logits), nn.softplus(judgement.fake_logits)
    return 0.5 * (jnp.mean(real) + jnp.mean(fake))


def feature_distance(judgement: Judgement) -> jax.Array:
    """Feature matching (arXiv 1711.11585): what is real is the target, and teaches the generator alone."""
    pairs = zip(judgement.real_features, judgement.fake_features, strict=True)
    return sum(jnp.mean(jnp.abs(fake.values - jax.lax.stop_gradient(real.values))) / fake.share for real, fake in pairs)
