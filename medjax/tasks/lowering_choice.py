"""How a network's convolutions are computed, by `train.lowering`, `train.fold` and `train.machine`."""

import dataclasses

import jax
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.layers.conv import LOWERINGS
from medjax.layers.lowering import MACHINES, Way, lowering_for, machine_of, way_for
from medjax.layers.spatial import Triple
from medjax.tasks.checks import check_choices


def one_lowering(train: ConfigDict) -> str:
    """Chooses the one way a network computes all its convolutions: `train.lowering`, or by default the machine's.

    Raises:
      UserError: there is no such lowering or machine, or a fold is asked for.
    """
    machine = _machine(train)
    if (train.fold or 1) > 1:
        raise UserError(f"train.fold is {train.fold}: only model.network=unet folds; leave it out")
    return train.lowering or lowering_for(machine)


def ways_by_level(train: ConfigDict, widths: tuple[int, ...], size: Triple, keep_depth: bool = False) -> list[Way]:
    """Chooses ways for a network whose levels halve the size: the table's for each level, but for what the configuration says.

    Args:
      train: the `train` keys.
      widths: channels, one a level.
      size: (D, H, W) of the first level.
      keep_depth: D is not halved.

    Raises:
      UserError: there is no such lowering or machine, or a level cannot be folded as `train.fold` asks.
    """
    machine, ways = _machine(train), []
    if train.fold is not None and train.fold < 1:
        raise UserError(f"train.fold is {train.fold}: use 1, which folds nothing, or more")
    for level, width in enumerate(widths):
        d, h, w = (edge >> level for edge in size)
        way = way_for(machine, width, (size[0] if keep_depth else d, h, w))
        if train.lowering:
            # A table's fold is measured with the table's lowering.
            way = Way(train.lowering)
        if train.fold is not None:
            if w % train.fold:
                raise UserError(
                    f"train.fold is {train.fold}: level {level + 1} of the network has W {w}, use a divisor of it"
                )
            way = dataclasses.replace(way, fold=train.fold)
        ways.append(way)
    return ways


def _machine(train: ConfigDict) -> str:
    """Returns the machine whose table counts, once it is clear that the choices are ones."""
    machine = train.machine or machine_of(jax.devices()[0])
    check_choices(
        ("train.machine", machine, MACHINES),
        ("train.lowering", train.lowering or LOWERINGS[0], LOWERINGS),
    )
    return machine
