"""Machines that are not there: devices to compile for, and what is known of each.

A TPU's compiler (libtpu) runs on any computer and compiles for any slice, "v5e:4x4" or "v5p:8x8x8". "cpu:8" is eight
virtual devices of this computer, to try things without libtpu.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from medjax.errors import UserError
from medjax.host_memory import memory_size

GiB = 2**30

# Read by libtpu when it is loaded. It asks the cloud it expects to be in who it is, logs at length, and takes a lock that
# would keep two plans from running at once; a plan touches no device, so it needs none.
LIBTPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_LOG_DIR": "disabled",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """Describes a generation of TPU; a device is a chip.

    Attributes:
      memory: usable HBM in bytes, as the compiler reports it when a program does not fit; less than the nominal size.
      clock: Hz, derived from the published peak of bfloat16 FLOP/s, which is two a multiplier and cycle.
      link_bytes_per_cycle: bytes that the compiler's scheduler (libtpu 0.0.51) reckons a transfer to the next chip to carry: read
        from its log for transfers of 4 and 64 MiB, which agree.
      options: options of the topology, needed where a device would not be a whole chip otherwise.
    """

    memory: int
    clock: float
    link_bytes_per_cycle: float
    options: tuple[tuple[str, str], ...] = ()


CHIPS = {
    "v4": Chip(int(30.75 * GiB), 275e12 / (2 * 8 * 128**2), 42.67, (("chip_config_name", "megacore"),)),
    "v5e": Chip(int(15.75 * GiB), 197e12 / (2 * 4 * 128**2), 31.10),
    "v5p": Chip(int(95.73 * GiB), 459e12 / (2 * 8 * 128**2), 53.34),
    "v6e": Chip(int(31.24 * GiB), 918e12 / (2 * 16 * 128**2), 53.34),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Describes a machine to compile for.

    Attributes:
      name: name as it was asked for.
      platform: "tpu" or "cpu".
      devices: devices to make a mesh of; nothing can be run on those of a TPU.
      memory: bytes a program may have on each device.
      chip: generation of a TPU's chips.
    """

    name: str
    platform: str
    devices: Sequence[jax.Device]
    memory: int
    chip: Chip | None = None


def open_topology(name: str) -> Topology:
    """Returns the machine that a name like "v5e:4x4" or "cpu:8" describes; JAX runs on this computer's CPU from then on.

    Raises:
      UserError: there is no such machine, libtpu is missing, or JAX runs on another platform or on fewer devices already.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu" and re.fullmatch("[1-9][0-9]*", shape):
        return _cpu(name, int(shape))
    if kind in CHIPS and re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*){1,2}", shape):
        return _tpu(name, CHIPS[kind])
    raise UserError(f"--topology={name}: use {', '.join(CHIPS)} and a shape, as v5e:4x4 or v5p:4x4x4, or cpu:8")


def _cpu(name: str, count: int) -> Topology:
    _use_cpu(count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology={name}: JAX has started with {len(devices)} devices already: ask for no more")
    # Virtual devices share what this computer has.
    memory = memory_size() // count
    return Topology(name, "cpu", devices[:count], memory)


def _tpu(name: str, chip: Chip) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(f"--topology={name} needs the TPU's compiler, which is not installed: pip install libtpu")
    _use_cpu()
    for variable, value in LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    try:
        devices = topologies.get_topology_desc(name, platform="tpu", **dict(chip.options)).devices
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={name}: libtpu knows no such machine ({reason}): use another shape") from error
    return Topology(name, "tpu", devices, chip.memory, chip)


def _use_cpu(count: int | None = None) -> None:
    """Has JAX start on the CPU, with this many devices; where it has started already, with what it has."""
    try:
        jax.config.update("jax_platforms", "cpu")
        if count is not None:
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.default_backend() != "cpu":
            raise UserError(f"JAX runs on {jax.default_backend()} already: plan in a process of its own") from None
