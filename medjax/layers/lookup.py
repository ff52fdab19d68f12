"""Looks up rows of a learned table by products: an index's gradient would be a scatter, which GPUs add up in any order."""

import jax
import jax.numpy as jnp
from jax import lax


def look_up(table: jax.Array, indices: jax.Array) -> jax.Array:
    """Computes table[indices] exactly, [rows, features] float32 by integers [...] to [..., features]; for tables of few rows."""
    chosen = jax.nn.one_hot(indices, len(table), dtype=table.dtype)
    return jnp.matmul(chosen, table, precision=lax.Precision.HIGHEST)
