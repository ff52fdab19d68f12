"""Makes the optimiser: AdamW with a learning-rate schedule and clipping, as one optax chain."""

from collections.abc import Callable

import jax
import optax

from medjax.errors import UserError

Schedule = Callable[[int], float]


def learning_rate_schedule(learning_rate: float, *, warmup_steps: int, decay: str, steps: int) -> Schedule:
    """Makes a linear warm-up, then a constant rate or half a cosine down to a hundredth at `steps`.

    The first update, step 0, has a `warmup_steps`-th of the rate: at rate 0 it would change nothing.

    Raises:
      UserError: `decay` is neither "constant" nor "cosine".
    """
    if decay == "constant":
        after = optax.constant_schedule(learning_rate)
    elif decay == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, max(1, steps - warmup_steps), alpha=0.01)
    else:
        raise UserError(f"optimizer.decay is {decay!r}: use 'constant' or 'cosine'")
    if not warmup_steps:
        return after
    return optax.join_schedules([lambda step: learning_rate * (step + 1) / warmup_steps, after], [warmup_steps])


def make_optimizer(
    schedule: Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float,
    parts: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """Makes AdamW behind a clip of the global gradient norm; `clip_norm` 0 means no clipping.

    Args:
      parts: top-level keys of the parameters that are clipped each by its own norm, such as the two sides of a GAN.
    """
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    chain = optax.chain(clip, optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))
    if not parts:
        return chain
    return optax.partition(
        dict.fromkeys(parts, chain),
        lambda params: {part: jax.tree.map(lambda _, part=part: part, params[part]) for part in params},
    )
