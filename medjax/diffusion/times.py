"""Draws the times a training batch is noised to: even steps, all times between them, or those where losses are large.

Rows [B] are the examples' places in the whole batch: each draws by its own key, whatever devices or microbatches there are.
"""

import jax
import jax.numpy as jnp

TIMES = ("uniform", "continuous", "importance")

REMEMBERED = 10  # losses of each step
UNIFORM_SHARE = 0.001  # of the importance distribution, so that no step is forgotten

History = dict[str, jax.Array]


def uniform(key: jax.Array, rows: jax.Array, steps: int) -> jax.Array:
    """Draws steps 0 .. T-1, each as likely: [B] int32."""
    return jax.vmap(lambda row: jax.random.randint(jax.random.fold_in(key, row), (), 0, steps))(rows)


def continuous(key: jax.Array, rows: jax.Array, steps: int) -> jax.Array:
    """Draws times between the first and the last step: [B] float32 in [0, T-1]."""
    u = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(rows)
    return u * (steps - 1)


def important(key: jax.Array, rows: jax.Array, history: History) -> tuple[jax.Array, jax.Array]:
    """Draws steps [B] by `importance`, and the weights [B] that make up for it: 1 / (T p_t)."""
    p = importance(history)
    cumulative = jnp.cumsum(p)
    u = jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(rows)
    t = jnp.searchsorted(cumulative, u * cumulative[-1], side="right").astype(jnp.int32)
    t = jnp.minimum(t, len(p) - 1)
    return t, 1 / (len(p) * p[t])


def importance(history: History) -> jax.Array:
    """Returns p_t [T], proportional to the root of the mean squared loss (arXiv 2102.09672, eq. 18); even till all are known."""
    losses = history["losses"]
    steps = len(losses)
    root = jnp.sqrt(jnp.mean(losses**2, axis=-1))
    p = (1 - UNIFORM_SHARE) * root / jnp.maximum(jnp.sum(root), jnp.finfo(root.dtype).tiny) + UNIFORM_SHARE / steps
    return jnp.where(jnp.all(history["count"] >= REMEMBERED), p, 1 / steps)


def no_history(steps: int) -> History:
    """Remembers losses of T steps: `losses` [T, REMEMBERED], newest last; `count` [T] of those seen, at most REMEMBERED."""
    return {"losses": jnp.zeros((steps, REMEMBERED), jnp.float32), "count": jnp.zeros((steps,), jnp.int32)}


def remember(history: History, t: jax.Array, losses: jax.Array) -> History:
    """Returns the history after a batch of losses [B] at the steps t [B], taken in order."""

    def one(history: History, seen: tuple[jax.Array, jax.Array]) -> tuple[History, None]:
        t, loss = seen
        row = jnp.append(history["losses"][t, 1:], loss)
        return {
            "losses": history["losses"].at[t].set(row),
            "count": history["count"].at[t].set(jnp.minimum(history["count"][t] + 1, REMEMBERED)),
        }, None

    return jax.lax.scan(one, history, (t, losses))[0]
