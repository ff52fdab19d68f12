"""Resolves what is left to the memory of the machine: `train.remat="auto"` and `sample.batch_size=0`.

The step is compiled for the devices that are there, and the compiler says what it needs.
"""

import sys
from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.host_memory import memory_size
from medjax.planning.forecast import Forecast, forecast_denoise, forecast_train
from medjax.runtime.mesh import batch_ways, make_mesh
from medjax.xla.topologies import GiB, Topology

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


def with_recomputation(config: ConfigDict) -> ConfigDict:
    """Replaces `train.remat="auto"` by the least recomputation that fits; other configurations stay as they are.

    Raises:
      UserError: not even recomputing all blocks fits, or the step cannot be made at all.
    """
    if config.train.remat != "auto":
        return config
    machine, config = machine_here(), config.copy_and_resolve_references()
    for remat in REMATS:
        config.train.remat = remat
        forecast = forecast_train(config, machine)
        if forecast.fits:
            print(f"train.remat: {remat}, which needs {described(forecast, machine)}", file=sys.stderr)
            return config
        if forecast.bytes_per_device is None:  # it was not for want of memory
            raise UserError(forecast.reason)
    raise UserError(
        f"data.batch_size is {config.data.batch_size}: the step needs {described(forecast, machine)} even with "
        "train.remat=blocks; use a smaller one, more train.accumulate, or cut volumes by mesh.depth"
    )


def with_sampling_batch(config: ConfigDict) -> ConfigDict:
    """Replaces `sample.batch_size=0` by the largest batch of samples that fits; other configurations stay as they are.

    Raises:
      UserError: not even one a device fits.
    """
    if config.sample.batch_size != 0:
        return config
    machine, config = machine_here(), config.copy_and_resolve_references()
    ways = batch_ways(make_mesh(config.mesh, machine.devices))

    def forecast(rows: int) -> Forecast:
        config.sample.batch_size = rows * ways
        return forecast_denoise(config, machine)

    found = most_that_fit(forecast, -(-config.sample.count // ways), machine.memory)
    if found is None:
        raise UserError(
            f"sample.batch_size is 0: not even {ways} fit into {machine.memory / GiB:.3g} GiB a device; cut volumes by mesh.depth"
        )
    rows, chosen = found
    config.sample.batch_size = rows * ways
    print(f"sample.batch_size: {rows * ways}, which needs {described(chosen, machine)}", file=sys.stderr)
    return config


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
