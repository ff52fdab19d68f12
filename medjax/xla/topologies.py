"""Machines that are not there: devices to compile for, and what is known of each.

The compilers of TPUs and of GPUs run on any computer. They compile for a slice of TPUs, "v5e:4x4" or "v5p:8x8x8", or several,
"2*v5e:4x4", and for GPUs of a node, "h100:8", or of several, "h100:4x8". "cpu:8" is eight virtual devices of this computer, to
try things with no other compiler.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

import jax
from jax.experimental import topologies

from medjax.console import NO_DRIVER, without_lines
from medjax.errors import UserError
from medjax.host_memory import memory_size
from medjax.xla.compilers import find_cuda, find_libtpu
from medjax.xla.gpus import GPU, GPUS, target_config
from medjax.xla.tpus import CHIPS, LIBTPU_ENVIRONMENT, Chip


@dataclasses.dataclass(frozen=True)
class Topology:
    """Describes a machine to compile for.

    Attributes:
      name: name as it was asked for.
      platform: "tpu", "gpu" or "cpu".
      devices: devices to make a mesh of; nothing can be run on those of a TPU or GPU.
      memory: bytes a program may have on each device.
      chip: generation of a TPU's chips.
      gpu: kind of GPU.
    """

    name: str
    platform: str
    devices: Sequence[jax.Device]
    memory: int
    chip: Chip | None = None
    gpu: GPU | None = None


def open_topology(name: str, compiler: pathlib.Path | None = None) -> Topology:
    """Returns the machine that a name like "v5e:4x4" or "h100:8" describes; JAX runs on this computer's CPU from then on.

    Args:
      name: a kind and a shape; for TPUs with the number of slices before, "2*v5e:4x4".
      compiler: folder that holds the compiler, if it is not one that compilers.py looks into.

    Raises:
      UserError: there is no such machine, its compiler is missing, or JAX runs on another platform or on fewer devices already.
    """
    kind, _, shape = name.partition(":")
    slices, _, kind = kind.rpartition("*")
    if kind == "cpu" and not slices and re.fullmatch("[1-9][0-9]*", shape):
        return _cpu(name, int(shape))
    if kind in GPUS and not slices and re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*)?", shape):
        return _gpu(name, GPUS[kind], shape, compiler)
    if (
        kind in CHIPS
        and re.fullmatch("([1-9][0-9]*)?", slices)
        and re.fullmatch("[1-9][0-9]*(x[1-9][0-9]*){1,2}", shape)
    ):
        return _tpu(name, f"{kind}:{shape}", int(slices or 1), CHIPS[kind], compiler)
    raise UserError(
        f"--topology={name}: use {', '.join(CHIPS)} and a shape, as v5e:4x4, v5p:4x4x4 or 2*v5e:4x4 for two slices; "
        f"{', '.join(GPUS)} and GPUs, as h100:8, or nodes x GPUs, as h100:4x8; or cpu:8"
    )


def _cpu(name: str, count: int) -> Topology:
    _use_cpu(count)
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UserError(f"--topology={name}: JAX has started with {len(devices)} devices already: ask for no more")
    # Virtual devices share what this computer has.
    memory = memory_size() // count
    return Topology(name, "cpu", devices[:count], memory)


def _tpu(name: str, one_slice: str, slices: int, chip: Chip, compiler: pathlib.Path | None) -> Topology:
    find_libtpu(name, compiler)
    _use_cpu()
    for variable, value in LIBTPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    options = dict(chip.options) | ({"num_slices": slices} if slices > 1 else {})
    try:
        devices = topologies.get_topology_desc(one_slice, platform="tpu", **options).devices
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--topology={name}: libtpu knows no such machine ({reason}): use another shape") from error
    return Topology(name, "tpu", devices, chip.memory, chip)


def _gpu(name: str, gpu: GPU, shape: str, compiler: pathlib.Path | None) -> Topology:
    _use_cpu()
    plugin = find_cuda(name, compiler)
    nodes, _, a_node = shape.rpartition("x")
    described = {"topology": f"1x{nodes or 1}x{a_node}", "target_config": target_config(gpu)}
    with without_lines(NO_DRIVER):
        try:
            devices = topologies.get_topology_desc(name, platform="cuda", **described).devices
        except NotImplementedError:  # JAX has looked for plugins without finding this one
            plugin.initialize()
            devices = topologies.get_topology_desc(name, platform="cuda", **described).devices
    return Topology(name, "gpu", devices, gpu.usable, gpu=gpu)


def _use_cpu(count: int | None = None) -> None:
    """Has JAX start on the CPU, with this many devices; where it has started already, with what it has."""
    try:
        jax.config.update("jax_platforms", "cpu")
        if count is not None:
            jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:
        if jax.default_backend() != "cpu":
            raise UserError(f"JAX runs on {jax.default_backend()} already: plan in a process of its own") from None
