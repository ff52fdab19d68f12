"""Turns one denoiser into another: guided by what it is told, kept in the range of the data."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from medjax.diffusion.objective import Objective

Told = Mapping[str, jax.Array]
Predict = Callable[
    [jax.Array, jax.Array, Told], tuple[jax.Array, jax.Array | None]
]  # of (x_t, t, told): Objective.split's
Estimate = Callable[
    [jax.Array, jax.Array], tuple[jax.Array, jax.Array | None]
]  # of (x_t, t): x_0, and variances if learned
OnMesh = Callable[[jax.Array], jax.Array]  # an array like x_t, laid on the mesh as x_t is


def guided(predict: Predict, unknown: Callable[[jax.Array], Told], scale: float, on_mesh: OnMesh) -> Predict:
    """Guides predictions by what is told, without a classifier (arXiv 2207.12598, eq. 6, whose w is one less).

    Args:
      predict: of a network that has also learned without being told.
      unknown: what tells it nothing of the examples of x_t.
      scale: 1 is the conditional prediction, 0 the unconditional one, above 1 extrapolates.
      on_mesh: lays the doubled batch on the mesh.
    """
    if scale == 1:
        return predict

    def both(x_t: jax.Array, t: jax.Array, told: Told) -> tuple[jax.Array, jax.Array | None]:
        # Each example beside itself without what it is told, so that devices which share a batch keep what they have.
        nothing = unknown(x_t)
        pairs = {name: _interleaved(values, nothing[name]) for name, values in told.items()}
        x_t, t = on_mesh(jnp.repeat(x_t, 2, axis=0)), jnp.repeat(t, 2, axis=0)
        prediction, v = predict(x_t, t, pairs)
        conditional, unconditional = (_one_of_two(prediction, i) for i in (0, 1))
        moved = unconditional + scale * (conditional - unconditional)
        return on_mesh(moved), None if v is None else _one_of_two(v, 0)

    return both


def estimate_of(objective: Objective, predict: Predict, told: Told) -> Estimate:
    """Makes what estimates x_0 of what predicts as the objective asks."""

    def estimate(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        prediction, v = predict(x_t, t, told)
        return objective.x_0_from(x_t, t, prediction), v

    return estimate


def thresholded(estimate: Estimate, threshold: Callable[[jax.Array], jax.Array]) -> Estimate:
    """Keeps each estimate of x_0 in the range of the data."""

    def kept(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        x_0, v = estimate(x_t, t)
        return threshold(x_0), v

    return kept


def _interleaved(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def _one_of_two(values: jax.Array, i: int) -> jax.Array:
    return values.reshape(-1, 2, *values.shape[1:])[:, i]
