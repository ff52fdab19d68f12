"""Interpolates between two volumes, or two noises."""

import jax
import jax.numpy as jnp


def lerp(a: jax.Array, b: jax.Array, share: jax.Array) -> jax.Array:
    """Goes the straight way from a [B, ...], at share 0, to b, at share 1; share is [B]."""
    share = share.reshape(-1, *(1,) * (a.ndim - 1))
    return (1 - share) * a + share * b


def slerp(a: jax.Array, b: jax.Array, share: jax.Array) -> jax.Array:
    """Goes from a to b along a great circle (arXiv 2010.02502, app. D.5): between two noises it meets only noises.

    A straight way would cut inside the sphere on which high-dimensional noise lives, and what is made of it would be flat.
    """
    axes = tuple(range(1, a.ndim))
    lengths = jnp.linalg.norm(a.reshape(len(a), -1), axis=1) * jnp.linalg.norm(b.reshape(len(b), -1), axis=1)
    angle = jnp.arccos(jnp.clip(jnp.sum(a * b, axis=axes) / lengths, -1, 1))
    sine = jnp.sin(angle)
    parallel = sine < 1e-4
    safe = jnp.where(parallel, 1, sine)
    of_a = jnp.where(parallel, 1 - share, jnp.sin((1 - share) * angle) / safe)
    of_b = jnp.where(parallel, share, jnp.sin(share * angle) / safe)
    shape = (-1, *(1,) * len(axes))
    return of_a.reshape(shape) * a + of_b.reshape(shape) * b
