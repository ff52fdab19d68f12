"""From a configuration to what every task that denoises is made of: an objective, and a way to sample."""

import jax
from ml_collections import ConfigDict

from medjax.diffusion import schedules
from medjax.diffusion.objective import Objective
from medjax.diffusion.predictions import PREDICTIONS
from medjax.diffusion.sampling import SAMPLERS, Sampling
from medjax.diffusion.schedules import Schedule
from medjax.diffusion.times import TIMES
from medjax.errors import UserError
from medjax.layers.spatial import keep_split

SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "vp": schedules.vp,
    "flow": schedules.flow,
    "karras": schedules.karras,
}


def check_choices(*choices: tuple[str, str, tuple[str, ...]]) -> None:
    """Raises UserError for the first (key, value, allowed) whose value is not allowed."""
    for key, value, allowed in choices:
        if value not in allowed:
            raise UserError(f"{key} is {value!r}: use {' or '.join(map(repr, allowed))}")


def make_objective(diffusion: ConfigDict) -> Objective:
    """The objective that the `diffusion` part of a configuration describes.

    Raises:
      UserError: naming the key that cannot work.
    """
    check_choices(
        ("diffusion.prediction", diffusion.prediction, PREDICTIONS),
        ("diffusion.times", diffusion.times, TIMES),
    )
    if diffusion.min_snr < 0:
        raise UserError(f"diffusion.min_snr is {diffusion.min_snr}: use a positive gamma such as 5, or 0 for none")
    if diffusion.learned_variance and diffusion.times == "continuous":
        raise UserError("diffusion.learned_variance is of steps: use diffusion.times 'uniform' or 'importance'")
    if diffusion.learned_variance and diffusion.steps < 2:
        raise UserError(f"diffusion.steps is {diffusion.steps}: diffusion.learned_variance needs 2 or more")
    schedule = make_schedule(diffusion.schedule, diffusion.steps)
    if diffusion.prediction == "noise" and schedule.alphas_cumprod[-1] == 0:
        raise UserError(
            f"diffusion.prediction is 'noise', of which diffusion.schedule={diffusion.schedule} holds nothing else at its "
            "last step: use 'x_0', 'v' or 'flow'"
        )
    return Objective(schedule, diffusion.prediction, diffusion.times, diffusion.min_snr, diffusion.learned_variance)


def make_sampling(sample: ConfigDict, trained: Schedule) -> Sampling:
    """How to sample a model of the schedule `trained`, by the `sample` part of a configuration.

    Raises:
      UserError: naming the key that cannot work.
    """
    check_choices(
        ("sample.sampler", sample.sampler, SAMPLERS), ("sample.variance", sample.variance, ("large", "small"))
    )
    steps, levels = sample.steps, None
    if sample.schedule is not None:
        steps = trained.steps if steps is None else steps
        levels = make_schedule(sample.schedule, steps, "sample")
    elif steps is not None and not 1 <= steps <= trained.steps:
        raise UserError(f"sample.steps is {steps}: use 1 to diffusion.steps = {trained.steps}, or set sample.schedule")
    if not 0 < sample.strength <= 1:
        raise UserError(f"sample.strength is {sample.strength}: use more than 0, little noise, to 1, nothing else")
    strength = sample.strength if sample.start else 1.0
    return Sampling(sample.sampler, steps, levels, sample.eta, sample.variance, strength)


def make_schedule(name: str, steps: int, part: str = "diffusion") -> Schedule:
    """The schedule that `diffusion.schedule` or `sample.schedule` names."""
    check_choices((f"{part}.schedule", name, tuple(SCHEDULES)))
    try:
        return SCHEDULES[name](steps)
    except ValueError as error:
        raise UserError(f"{part}.steps is {steps}: {error}") from error


def normal_by_row(key: jax.Array, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], each example's keyed by its row."""
    return keep_split(jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), shape))(rows))
