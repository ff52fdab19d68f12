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
from medjax.xla.tpus import CHIPS, LIBTPU_ENVIRONMENT, Chip


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
