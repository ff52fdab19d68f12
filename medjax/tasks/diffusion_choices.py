"""Makes a diffusion's objective, conditions and way to sample from a configuration."""

import functools

from ml_collections import ConfigDict

from medjax.diffusion import schedules
from medjax.diffusion.objective import LOSSES, Objective
from medjax.diffusion.predictions import PREDICTIONS
from medjax.diffusion.samplers.options import SAMPLERS, Sampling
from medjax.diffusion.schedules import Schedule
from medjax.diffusion.times import TIMES
from medjax.errors import UserError
from medjax.layers.conditions import Condition
from medjax.tasks.checks import check_choices

SCHEDULES = {
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "cosine_9999": functools.partial(schedules.cosine, max_beta=0.9999),
    "vp": schedules.vp,
    "flow": schedules.flow,
    "karras": schedules.karras,
}


def make_conditions(config: ConfigDict) -> tuple[Condition, ...]:
    """Lists what the `model` part of a configuration says that the network is told.

    Raises:
      UserError: naming the key that cannot work.
    """
    model = config.model
    if model.classes < 0:
        raise UserError(f"model.classes is {model.classes}: use the number of labels, or 0 for none")
    if not 0 <= model.label_dropout <= 1:
        raise UserError(f"model.label_dropout is {model.label_dropout}: use a share of the examples, 0 to 1")
    return (Condition("class", "class", model.classes, model.label_dropout),) if model.classes else ()


def check_guidance(conditions: tuple[Condition, ...], label: int | None, guidance: float) -> None:
    """Raises UserError unless a network of these conditions can be sampled like this."""
    classes = sum(each.classes for each in conditions)
    if label is not None and not 0 <= label < classes:
        choice = f"use 0 to {classes - 1}, or leave it out" if classes else "leave it out"
        raise UserError(f"sample.label is {label}, where model.classes is {classes}: {choice}")
    if guidance != 1 and label is None:
        choice = "set sample.label, or leave it at 1" if classes else "this model knows none, leave it at 1"
        raise UserError(f"sample.guidance is {guidance}, towards no label: {choice}")


def make_objective(diffusion: ConfigDict) -> Objective:
    """The objective that the `diffusion` part of a configuration describes.

    Raises:
      UserError: naming the key that cannot work.
    """
    check_choices(
        ("diffusion.prediction", diffusion.prediction, PREDICTIONS),
        ("diffusion.times", diffusion.times, TIMES),
        ("diffusion.loss", diffusion.loss, LOSSES),
    )
    if diffusion.min_snr < 0:
        raise UserError(f"diffusion.min_snr is {diffusion.min_snr}: use a positive gamma such as 5, or 0 for none")
    if diffusion.min_snr and diffusion.loss != "mse":
        raise UserError(
            f"diffusion.min_snr weighs squared errors, diffusion.loss is {diffusion.loss!r}: use 'mse', or 0"
        )
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
    return Objective(
        schedule, diffusion.prediction, diffusion.times, diffusion.min_snr, diffusion.loss, diffusion.learned_variance
    )


def make_sampling(sample: ConfigDict, trained: Schedule) -> Sampling:
    """How to sample a model of the schedule `trained`, by the `sample` part of a configuration.

    Raises:
      UserError: naming the key that cannot work.
    """
    check_choices(
        ("sample.sampler", sample.sampler, SAMPLERS), ("sample.variance", sample.variance, ("large", "small"))
    )
    levels, steps = None, trained.steps if sample.steps is None else sample.steps
    own = sample.schedule in (None, "trained", "log_snr")  # None as "trained"
    if not own:
        levels = make_schedule(sample.schedule, steps, "sample")
    elif not 1 <= steps <= trained.steps:
        raise UserError(
            f"sample.steps is {steps}: use 1 to diffusion.steps = {trained.steps}, or sample.schedule=karras"
        )
    elif sample.schedule == "log_snr":
        levels = schedules.log_snr(trained, steps)
    if not 0 < sample.strength <= 1:
        raise UserError(f"sample.strength is {sample.strength}: use more than 0, little noise, to 1, nothing else")
    strength = sample.strength if sample.start else 1.0
    return Sampling(sample.sampler, steps, levels, sample.eta, sample.variance, strength)


def make_schedule(name: str, steps: int, part: str = "diffusion") -> Schedule:
    """The schedule that `diffusion.schedule` or `sample.schedule` names."""
    more = ("trained", "log_snr") if part == "sample" else ()
    check_choices((f"{part}.schedule", name, (*more, *SCHEDULES)))
    try:
        return SCHEDULES[name](steps)
    except ValueError as error:
        raise UserError(f"{part}.steps is {steps}: {error}") from error
