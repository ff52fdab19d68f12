"""Resolves what is left to the memory of the machine: `train.remat="auto"` and `sample.batch_size=0`.

The step is compiled for the devices that are there, and the compiler says what it needs.
"""

import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from medjax.builders.assemble import Needs, in_force
from medjax.errors import UserError
from medjax.host_memory import memory_size
from medjax.planning.forecast import Forecast, forecast_denoise, forecast_train
from medjax.planning.search import changed
from medjax.runtime.mesh import batch_ways, make_mesh
from medjax.xla.topologies import Topology
from medjax.xla.tpus import GiB

REMATS = ("none", "above:32", "above:16", "blocks")  # from the fastest to the one that needs the least memory
SHARE = 0.9  # of a device's memory for one program: data, other programs and gaps need the rest


def machine_here() -> Topology:
    """Describes the devices of this process's machine, as plans see machines."""
    devices = jax.devices()
    stats = jax.local_devices()[0].memory_stats() or {}
    memory = stats.get("bytes_limit")
    if memory is None:  # devices that share what the computer has
        memory = memory_size() // len(jax.local_devices())
    return Topology("this machine", devices[0].platform, devices, int(SHARE * memory))


def decisions(config: ConfigDict, workdir: pathlib.Path | None, needs: Needs) -> dict[str, Any]:
    """Decides what the configuration leaves to memory and the job needs, as `assemble` takes it; nothing is open in most.

    Args:
      config: as it was given.
      workdir: the run's folder; None where there is none.
      needs: what the job needs.

    Raises:
      UserError: nothing fits.
    """
    decided: dict[str, Any] = {}
    if needs.training and config.train.remat == "auto":
        decided["train.remat"] = recomputation_that_fits(in_force(config, workdir, decided, needs))
    if needs.sampling and config.sample.batch_size == 0:
        decided["sample.batch_size"] = sampling_batch_that_fits(in_force(config, workdir, decided, needs))
    return decided


def recomputation_that_fits(config: ConfigDict) -> str:
    """Finds the `train.remat` of the least recomputation with which a training step fits.

    Raises:
      UserError: not even recomputing all blocks fits, or the step cannot be made at all.
    """
    machine = machine_here()
    for remat in REMATS:
        forecast = forecast_train(changed(config, remat=remat), machine)
        if forecast.fits:
            print(f"train.remat: {remat}, which needs {described(forecast, machine)}", file=sys.stderr)
            return remat
        if forecast.bytes_per_device is None:  # it was not for want of memory
            raise UserError(forecast.reason)
    raise UserError(
        f"data.batch_size is {config.data.batch_size}: the step needs {described(forecast, machine)} even with "
        "train.remat=blocks; use a smaller one, more train.accumulate, or cut volumes by mesh.depth"
    )


def sampling_batch_that_fits(config: ConfigDict) -> int:
    """Finds the largest batch of samples that fits, or one for all of them.

    Raises:
      UserError: not even one a device fits, or samples cannot be drawn at all.
    """
    machine = machine_here()
    ways = batch_ways(make_mesh(config.mesh, machine.devices))

    def forecast(rows: int) -> Forecast:
        chosen = forecast_denoise(changed(config, samples=rows * ways), machine)
        if not chosen.fits and chosen.bytes_per_device is None:  # it was not for want of memory
            raise UserError(chosen.reason)
        return chosen

    found = most_that_fit(forecast, -(-config.sample.count // ways), machine.memory)
    if found is None:
        raise UserError(
            f"sample.batch_size is 0: not even {ways} fit into {machine.memory / GiB:.3g} GiB a device; cut volumes by mesh.depth"
        )
    rows, chosen = found
    print(f"sample.batch_size: {rows * ways}, which needs {described(chosen, machine)}", file=sys.stderr)
    return rows * ways


def most_that_fit(forecast: Callable[[int], Forecast], most: int, memory: int) -> tuple[int, Forecast] | None:
    """Finds a batch that fits, of `most` or nearly as many as can be, and its forecast; None if a batch of 1 does not fit.

    Memory is nearly linear in the batch: two forecasts give the line, the third is where it meets the memory.
    """
    one = forecast(1)
    if not one.fits:
        return None
    if most == 1:
        return 1, one
    two = forecast(2)
    if not two.fits:
        return 1, one
    slope = max(1, two.bytes_per_device - one.bytes_per_device)
    rows = min(most, 1 + (memory - one.bytes_per_device) // slope)
    while rows > 2:
        chosen = forecast(rows)
        if chosen.fits:
            return rows, chosen
        rows = rows * 3 // 4
    return 2, two


def described(forecast: Forecast, machine: Topology) -> str:
    """Says how much memory is needed and how much there is."""
    needed = "more" if forecast.bytes_per_device is None else f"{forecast.bytes_per_device / GiB:.3g}"
    return f"{needed} of {machine.memory / GiB:.3g} GiB a device"
