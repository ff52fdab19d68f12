"""Forecasts what one step takes of a machine that need not be there: compiled for it, read, never run."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh
from ml_collections import ConfigDict

from medjax.builders.assemble import Needs, Run, assemble
from medjax.builders.steps import denoise_step_of, key_shapes, state_shapes, train_step_of, volume_shapes
from medjax.console import say
from medjax.errors import UserError
from medjax.runtime.mesh import AXES, batch_sharding, batch_ways, make_mesh
from medjax.runtime.placement import islands_of
from medjax.runtime.sharding import state_shardings
from medjax.xla import cost, flops, hlo, traffic
from medjax.xla.cost import Collective
from medjax.xla.roofline import roofline
from medjax.xla.topologies import Topology
from medjax.xla.tpus import GiB

UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Describes one step on one mesh, per device. What the compiler refused, or does not tell on this platform, is None.

    Attributes:
      step: "train" or "denoise".
      mesh: devices along each axis.
      batch_size: number of examples on all devices together.
      remat: `train.remat`.
      fits: whether every device holds it.
      reason: why it does not, in a line.
      bytes_per_device: bytes of memory, all in all; where a step was refused, what the compiler says it needs.
      memory: the parts of it: `parameters` (with their moving average when training), `optimizer` and `batch`, as their
        shapes say, are among the `arguments`, which the device's memory layout pads; `temporaries` are activations and
        gradients; `code`.
      flops: operations as the compiler counts them, those of recomputed activations included; for GPUs, whose compiler does
        not count, as xla/flops.py does.
      collectives: counts a step (`count`) and `bytes` by kind, for each the larger of operand's and result's, and
        of these how many are `parameters` that are gathered, `gradients` that are summed, and `activations`.
      communicated_bytes: bytes of all collectives.
      network_bytes: of these, the bytes of collectives that reach over several slices or nodes.
      traffic: counts (`count`) and `bytes` by kind of operation, read and written in memory, of GPUs (xla/traffic.py).
      roofline: seconds below which a GPU cannot come, in its parts (xla/roofline.py), with the most of them (`seconds`)
        and its name (`binds`).
      cycles, communication_cycles, communication_share, exposed_share: the compiler's estimate (compiled.Estimate).
      seconds_estimated: that estimate at the chip's clock.
      compile_seconds: seconds that finding out took.
    """

    step: str
    mesh: dict[str, int]
    batch_size: int
    remat: str
    fits: bool
    reason: str | None = None
    bytes_per_device: int | None = None
    memory: dict[str, int] | None = None
    flops: float | None = None
    collectives: dict[str, dict[str, int]] | None = None
    communicated_bytes: int | None = None
    network_bytes: int | None = None
    traffic: dict[str, dict[str, int]] | None = None
    roofline: dict[str, Any] | None = None
    cycles: int | None = None
    communication_cycles: int | None = None
    communication_share: float | None = None
    exposed_share: float | None = None
    seconds_estimated: float | None = None
    compile_seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Step:
    """Holds a step that is made and not run.

    Attributes:
      function: jitted.
      arguments: shapes of what it is called with.
      holdings: bytes of these on a device, by what they are.
      params: shapes of the parameters.
      rounds: number of times that the loop in it goes round.
    """

    function: Any
    arguments: tuple[Any, ...]
    holdings: dict[str, int]
    params: Any
    rounds: int


class OutOfMemory(Exception):
    """Says that the compiler refuses a program; `needed` bytes of a device, `available` bytes."""

    def __init__(self, needed: int, available: int):
        super().__init__(needed, available)
        self.needed, self.available = needed, available


def forecast_train(config: ConfigDict, machine: Topology) -> Forecast:
    """Forecasts the training step of a configuration, its batch and its mesh."""
    needs = Needs(training=True, pretrained="shapes", own=False)
    return _forecast("train", config, machine, config.data.batch_size, needs, _training)


def forecast_denoise(config: ConfigDict, machine: Topology) -> Forecast:
    """Forecasts one evaluation of the network in sampling, for `sample.batch_size` volumes, rounded up for the mesh."""
    ways = batch_ways(make_mesh(config.mesh, machine.devices))
    batch_size = -(-config.sample.batch_size // ways) * ways
    needs = Needs(sampling=True, pretrained="shapes", own=False)
    return _forecast("denoise", config, machine, batch_size, needs, _denoising)


def _training(run: Run) -> Step:
    state = state_shapes(run.task, run.optimizer, run.spec)
    step = train_step_of(run.config, run.task, run.optimizer, state, run.spec, run.mesh)
    shardings = state_shardings(state, run.mesh)
    holdings = {
        "parameters": bytes_of((state.params, state.ema), (shardings.params, shardings.ema)),
        "optimizer": bytes_of(state.opt_state, shardings.opt_state),
        "batch": bytes_of(run.spec, {name: batch_sharding(run.mesh, array) for name, array in run.spec.items()}),
    }
    return Step(step, (state, run.pretrained.arrays, run.spec), holdings, state.params, run.config.train.accumulate)


def _denoising(run: Run) -> Step:
    batch_size = run.config.sample.batch_size
    batch = volume_shapes(tuple(run.config.data.size), batch_size)
    params, variables = jax.eval_shape(run.task.init, jax.random.key(0), batch)
    step = denoise_step_of(run.task, params, variables, batch, run.mesh)
    holdings = {"parameters": bytes_of(params, state_shardings(params, run.mesh)), "optimizer": 0, "batch": 0}
    return Step(step, (params, variables, run.pretrained.arrays, key_shapes(batch_size)), holdings, params, 1)


def _forecast(
    name: str, config: ConfigDict, machine: Topology, batch_size: int, needs: Needs, make: Callable[[Run], Step]
) -> Forecast:
    mesh = make_mesh(config.mesh, machine.devices)
    blank = Forecast(name, dict(mesh.shape), batch_size, config.train.remat, fits=False)
    decided = {"sample.batch_size": batch_size} if needs.sampling else {}
    try:
        begin = time.perf_counter()
        say(f"compiling the {name} step for {describe_mesh(blank.mesh)}, batch {batch_size}, remat {blank.remat}", "")
        run = assemble(config, None, needs, decided, mesh)
        step = make(run)
        executable = compile_for(step.function.lower(*step.arguments), machine)
    except UserError as error:
        say(" refused")
        return dataclasses.replace(blank, reason=str(error))
    except OutOfMemory as error:
        seconds = time.perf_counter() - begin
        say(f" {seconds:.0f} s: does not fit")
        reason = f"needs {error.needed / GiB:.2f} of {error.available / GiB:.2f} GiB"
        return dataclasses.replace(blank, reason=reason, bytes_per_device=error.needed, compile_seconds=seconds)
    seconds = time.perf_counter() - begin
    say(f" {seconds:.0f} s")
    return read(
        dataclasses.replace(blank, compile_seconds=seconds), executable, machine, mesh, step, config.train.dtype
    )


def read(
    blank: Forecast, executable: jax.stages.Compiled, machine: Topology, mesh: Mesh, step: Step, dtype: str
) -> Forecast:
    """Fills `blank` with what a compiled step tells.

    The compiler counts the operations of a loop's body once; the only loop that matters is that over microbatches, so its
    count is multiplied by its rounds.
    """
    memory, counted = cost.memory(executable), cost.flops(executable)
    counted = (
        flops.count(step.function, *step.arguments) / mesh.size if machine.gpu else counted and counted * step.rounds
    )
    program = read_text(executable)
    fits = memory.total <= machine.memory
    reason = None if fits else f"needs {memory.total / GiB:.2f} of {machine.memory / GiB:.2f} GiB"
    account = {"arguments": memory.arguments, "temporaries": memory.temporaries, "code": memory.code}
    told = dataclasses.replace(
        blank,
        fits=fits,
        reason=reason,
        bytes_per_device=memory.total,
        memory=dict(step.holdings) | account,
        flops=counted,
    )
    if program is None:
        return told
    found = cost.collectives(program)
    summary = summarise(found, blank.mesh, parameter_sizes(step.params, blank.mesh["fsdp"]))
    island = island_of_places(mesh)
    between = [one for one in found if cost.reaches_over(one, island)]
    told = dataclasses.replace(
        told,
        collectives=summary,
        communicated_bytes=sum(one.times * one.bytes for one in found),
        network_bytes=sum(one.times * one.bytes for one in between),
    )
    if machine.gpu:
        moved = traffic.traffic(program)
        sent = [sum(one.times * one.ways * one.bytes for one in some) for some in (found, between)]
        # The GPUs of a node share what crosses, each over a network card of its own.
        of_each = mesh.size // (max(island) + 1)
        bound = roofline(
            machine.gpu, dtype, counted, sum(kind.bytes for kind in moved.values()), sent[0], sent[1] / of_each
        )
        parts = dataclasses.asdict(bound) | {"seconds": bound.seconds, "binds": bound.binds}
        kinds = {kind: dataclasses.asdict(counts) for kind, counts in moved.items()}
        return dataclasses.replace(told, traffic=kinds, roofline=parts)
    estimate = cost.estimate(program, machine.chip.link_bytes_per_cycle) if machine.chip else None
    if estimate is None:
        return told
    return dataclasses.replace(
        told,
        cycles=estimate.cycles,
        communication_cycles=estimate.communication,
        communication_share=estimate.communication_share,
        exposed_share=estimate.exposed_share,
        seconds_estimated=estimate.cycles / machine.chip.clock,
    )


def read_text(executable: jax.stages.Compiled) -> hlo.Program | None:
    """Reads the program of a compiled step; None where its text does not tell.

    What fits is decided by memory alone, so a text that cannot be read stops nobody.
    """
    try:
        program = hlo.parse(executable.as_text())
        cost.collectives(program)
        return program
    except hlo.UNREADABLE as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:100]
        say(f"the compiled step's text cannot be read ({reason}): what it sends and its cycles are not told")
        return None


def island_of_places(mesh: Mesh) -> list[int]:
    """Tells the slice or node of each place in the mesh, counted row by row."""
    number = {device.id: n for n, island in enumerate(islands_of(list(mesh.devices.flat))) for device in island}
    return [number[device.id] for device in mesh.devices.flat]


def compile_for(lowered: jax.stages.Lowered, machine: Topology) -> jax.stages.Compiled:
    """Compiles for a machine that is not there.

    Raises:
      OutOfMemory: the compiler finds that the program cannot fit.
    """
    # A program for a machine that is not there cannot be read back from JAX's cache: asking for it would only warn.
    cached = jax.config.jax_enable_compilation_cache
    _use_cache(cached and machine.platform == "cpu")
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, available = memory_numbers(str(error)) or (machine.memory + 1, machine.memory)
        raise OutOfMemory(needed, available) from None
    finally:
        _use_cache(cached)


def _use_cache(use: bool) -> None:
    """Has JAX keep compiled programs, or not; it looks at its setting once, and again after a reset."""
    if use != jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_enable_compilation_cache", use)
        compilation_cache.reset_cache()


def memory_numbers(message: str) -> tuple[int, int] | None:
    """Reads bytes (needed, available) from what the TPU compiler says of a program that does not fit; None if it gives none."""
    number = r"([\d.]+)([BKMGT])"
    for pattern in (rf"\({number}\) exceeds available HBM \({number}\)", rf"Used {number} of {number} hbm"):
        if match := re.search(pattern, message):
            return round(float(match[1]) * UNITS[match[2]]), round(float(match[3]) * UNITS[match[4]])
    return None


def bytes_of(tree: Any, shardings: Any) -> int:
    """Counts the bytes of a tree of arrays on one device, without padding."""
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(leaf.dtype.itemsize * math.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in leaves)


def parameter_sizes(params: Any, fsdp: int) -> frozenset[int]:
    """Lists how many elements a parameter has, or its share of `fsdp`, or one depth plane of a convolution's kernel.

    Convolutions may run plane by plane; gathers and sums of their kernels then do too.
    """
    sizes = set()
    for leaf in jax.tree.leaves(params):
        whole = {math.prod(leaf.shape)} | ({math.prod(leaf.shape[1:])} if len(leaf.shape) == 5 else set())
        sizes |= whole | {size // fsdp for size in whole}
    return frozenset(sizes)


def purpose_of(collective: Collective, size: int, mesh_shape: Mapping[str, int], sizes: frozenset[int]) -> str:
    """Tells what an array of `size` elements is sent for: "parameters", "gradients" or "activations".

    Different volumes never meet in the network, so a sum along `data` or `fsdp` is of gradients (or of the losses, a few
    bytes). Any other sum, of gradients or of a norm's statistics, is told by the array's size and by where it comes from;
    a gather by the size.
    """
    along_batch = collective.crosses(mesh_shape) & {"data", "fsdp"}
    if collective.kind in ("all-reduce", "reduce-scatter"):
        backward = "transpose(" in collective.op_name
        return "gradients" if along_batch or (backward and size in sizes) else "activations"
    if collective.kind == "all-gather" and along_batch and size in sizes:
        return "parameters"
    return "activations"


def summarise(
    found: list[Collective], mesh_shape: Mapping[str, int], sizes: frozenset[int]
) -> dict[str, dict[str, int]]:
    """Groups collectives by kind: count, bytes, and bytes by purpose."""
    summary: dict[str, dict[str, int]] = {}
    for collective in found:
        blank = {"count": 0, "bytes": 0, "parameters": 0, "gradients": 0, "activations": 0}
        kind = summary.setdefault(collective.kind, blank)
        kind["count"] += collective.times
        kind["bytes"] += collective.times * collective.bytes
        for array in collective.arrays:
            kind[purpose_of(collective, array.size, mesh_shape, sizes)] += collective.times * array.bytes
    return summary


def describe_mesh(mesh_shape: Mapping[str, int]) -> str:
    """Writes a mesh as `--meshes` takes it; axes of one device left out."""
    return ",".join(f"{axis}={mesh_shape[axis]}" for axis in AXES if mesh_shape[axis] > 1) or "data=1"
