"""Searches for what fits: the largest batch, and what to try where a configuration does not fit."""

import math
from collections.abc import Callable, Iterator

from ml_collections import ConfigDict

from medjax.planning.forecast import Forecast, forecast_train
from medjax.runtime.mesh import AXES, make_mesh
from medjax.xla.topologies import Topology

ONE_DEVICE = dict.fromkeys(AXES, 1)


def largest_that_fits(forecast: Callable[[int], Forecast], memory: int) -> int:
    """Finds the largest count for which `forecast(count)` fits, 0 if 1 does not; both it and the next were compiled.

    Memory is nearly linear in the batch, so a line through 1 and 2 gives the first guess. It is no more than a guess: near
    its limit the compiler finds ways to do with less.
    """
    if not forecast(1).fits:
        return 0
    if not forecast(2).fits:
        return 1
    slope = forecast(2).bytes_per_device - forecast(1).bytes_per_device
    guess = 1 + (memory - forecast(1).bytes_per_device) // max(1, slope)
    fits, refused, stride = 2, math.inf, 1
    while refused - fits > 1:
        guess = (fits + refused) // 2 if stride > 2 and refused < math.inf else guess
        guess = min(max(guess, fits + 1), refused - 1)
        if forecast(guess).fits:
            fits, guess = guess, guess + stride
        else:
            refused, guess = guess, guess - stride
        stride *= 2
    return fits


def until_one_fits(config: ConfigDict, refused: Forecast, machine: Topology) -> Iterator[Forecast]:
    """Yields forecasts of the training step in place of the `refused` one, up to the first that fits."""
    for alternative in alternatives(config, machine):
        config, refused = alternative, forecast_train(alternative, machine)
        yield refused
        if refused.fits:
            return
    # Then smaller batches: by half, or by as much as the last was too large, which saves compilations.
    step = refused.mesh["data"] * refused.mesh["fsdp"] * config.train.accumulate
    while refused.batch_size > step:
        shrunk = refused.batch_size * min(0.5, machine.memory / (refused.bytes_per_device or 1))
        refused = forecast_train(changed(config, batch_size=max(step, int(shrunk) // step * step)), machine)
        yield refused
        if refused.fits:
            return


def alternatives(config: ConfigDict, machine: Topology) -> Iterator[ConfigDict]:
    """Lists what to try for the same batch where a configuration does not fit; each keeps what came before it.

    Recomputed activations; the volumes cut into parts, as far as that gives more devices something to do; parameters and
    optimiser cut over the devices that only shared the batch.
    """
    if config.train.remat != "blocks":
        config = changed(config, remat="blocks")
        yield config
    mesh = dict(make_mesh(config.mesh, machine.devices).shape)
    accumulate, devices = config.train.accumulate, len(machine.devices)
    batch_size = config.data.batch_size or mesh["data"] * mesh["fsdp"] * accumulate
    used = 0 if batch_size % (mesh["data"] * mesh["fsdp"] * accumulate) else math.prod(mesh.values())
    # The fewest parts with which the most devices have something to do.
    cuts = [
        cut | {"data": math.gcd(batch_size // accumulate, devices // parts)} for parts, cut in cuts_of(config, devices)
    ]
    best = max(cuts, key=lambda cut: (math.prod(cut.values()), cut["data"]))
    if math.prod(best.values()) > used:
        mesh = ONE_DEVICE | best
        config = changed(config, mesh=mesh, batch_size=batch_size)
        yield config
    if mesh["data"] > 1:
        mesh |= {"data": 1, "fsdp": mesh["fsdp"] * mesh["data"]}
        config = changed(config, mesh=mesh, batch_size=batch_size)
        yield config


def cuts_of(config: ConfigDict, most: int) -> Iterator[tuple[int, dict[str, int]]]:
    """Lists ways to cut a volume into 1, 2, 4, ... parts, up to `most`: along D as far as it goes, then along H."""
    # A part holds four planes or a multiple of it (mesh.check_volume_size).
    depth_most, height_most = (edge // 4 & -(edge // 4) for edge in config.data.size[:2])
    parts = 1
    while parts <= min(most, depth_most * height_most):
        depth = min(parts, depth_most)
        yield parts, {"depth": depth, "height": parts // depth}
        parts *= 2


def changed(
    config: ConfigDict,
    batch_size: int | None = None,
    remat: str | None = None,
    mesh: dict[str, int] | None = None,
    samples: int | None = None,
) -> ConfigDict:
    """Returns a copy with another batch size, remat, mesh or batch of samples."""
    config = config.copy_and_resolve_references()
    config.sample.batch_size = samples or config.sample.batch_size
    config.data.batch_size = batch_size or config.data.batch_size
    config.train.remat = remat or config.train.remat
    config.mesh.update(mesh or {})
    return config
