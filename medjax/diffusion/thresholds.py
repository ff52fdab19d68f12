"""Keeps an estimate of x_0 in [-1, 1], where data are."""

import jax
import jax.numpy as jnp

BISECTIONS = 24  # of a threshold between 1 and the largest value: float32 holds no more


def threshold_dynamically(x: jax.Array, share: float) -> jax.Array:
    """Clamps each example [B, ...] to [-s, s] and divides by s, its own `share` quantile of |x| or 1 if that is less.

    arXiv 2205.11487, section 2.3. Contrast is given up where a clamp would flatten what is too bright.
    """
    limit = quantile_above_1(jnp.abs(x), share).reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.clip(x, -limit, limit) / limit


def quantile_above_1(magnitudes: jax.Array, share: float) -> jax.Array:
    """Returns each example's quantile [B] of values [B, ...] >= 0, linear between two of them, or 1 where it is less.

    By bisection, as counting needs no more than a sum from devices that share a volume; sorting would gather it.
    """
    axes = tuple(range(1, magnitudes.ndim))
    place = share * (magnitudes[0].size - 1)  # among the sorted values
    below, between = int(place), place - int(place)

    def spread(values: jax.Array) -> jax.Array:
        return values.reshape(-1, *(1,) * len(axes))

    def count(limit: jax.Array) -> jax.Array:
        return jnp.sum(magnitudes <= spread(limit), axis=axes, dtype=jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        enough = count(middle) > below
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    largest = jnp.maximum(jnp.max(magnitudes, axis=axes), 1)
    high = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.ones_like(largest), largest))[1]
    up_to, beyond = magnitudes <= spread(high), magnitudes > spread(high)
    lower = jnp.max(magnitudes, axis=axes, where=up_to, initial=0)
    upper = jnp.minimum(jnp.min(magnitudes, axis=axes, where=beyond, initial=jnp.inf), largest)
    upper = jnp.where(count(lower) > below + 1, lower, upper)
    return jnp.maximum(lower + between * (upper - lower), 1)
