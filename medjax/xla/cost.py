"""Reads what a compiled program does on each device: its memory, its FLOPs, its cycles, what it sends.

Works on `jax.stages.Compiled`, whichever machine it was compiled for. Cycles are **the compiler's estimate**, never a
measurement: see `estimate`.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from medjax.xla.hlo import Array, Computation, Instruction, Program, executions, run_in_place, trip_count

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
SENT_TWICE = ("all-reduce",)  # a ring sums on the first way round and hands out the sum on the second
CHAINED = "async_collective_fusion_config"  # notes a link of such a chain as `_started_by` describes
CONTEXT = (Array("u32", ()), Array("s32", ()))  # what `-start` returns besides operands and results


@dataclasses.dataclass(frozen=True)
class Memory:
    """Counts bytes on one device.

    Attributes:
      arguments: bytes of what the program is called with.
      outputs: bytes of what it returns, `aliased` of which takes the place of arguments.
      temporaries: bytes of what it needs meanwhile: activations and gradients, above all.
      code: bytes of the program itself.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """Returns what must be free on the device to run the program once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Collective:
    """Describes a communication between devices.

    Attributes:
      kind: one of `KINDS`; the TPU's fusion of an all-reduce with the slicing of its result is a reduce-scatter.
      arrays: its operands on one device, or its results if those are larger.
      times: number of times it runs in one run of the program.
      groups: the places in the mesh, counted row by row, of devices that exchange; None if the text cannot be read.
      op_name: place in the model that it comes from.
      overlapped_cycles: cycles of computation scheduled between its start and its end; 0 if the devices wait for it.
    """

    kind: str
    arrays: tuple[Array, ...]
    times: int
    groups: tuple[tuple[int, ...], ...] | None
    op_name: str
    overlapped_cycles: int

    @property
    def bytes(self) -> int:
        """Returns the bytes of one execution on one device: the larger of what goes in and what comes out."""
        return sum(array.bytes for array in self.arrays)

    @property
    def ways(self) -> int:
        """Returns how often a ring sends these bytes: an all-reduce once to sum and once to hand out the sum."""
        return 2 if self.kind in SENT_TWICE else 1

    def crosses(self, mesh_shape: Mapping[str, int]) -> frozenset[str]:
        """Returns the axes of a mesh, sizes in order, along which devices that exchange lie apart; all of them if unknown."""
        axes, sizes = tuple(mesh_shape), tuple(mesh_shape.values())
        if self.groups is None or max(itertools.chain(*self.groups), default=0) >= math.prod(sizes):
            return frozenset(axis for axis in axes if mesh_shape[axis] > 1)
        if not self.groups:  # no groups means one of all devices
            return frozenset(axis for axis in axes if mesh_shape[axis] > 1)
        crossed: set[str] = set()
        for group in self.groups:
            places = np.stack(np.unravel_index(group, sizes))
            crossed |= {axis for axis, along in zip(axes, places, strict=True) if len(set(along)) > 1}
        return frozenset(crossed)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Holds the compiler's estimate of one run, in cycles of a device.

    Attributes:
      computation: cycles of everything but communication.
      communication: cycles of all communication, were none of it hidden behind computation.
      exposed: cycles of `communication` that the schedule does not hide.
    """

    computation: int
    communication: int
    exposed: int

    @property
    def cycles(self) -> int:
        """Returns the cycles of a run from start to end."""
        return self.computation + self.exposed

    @property
    def communication_share(self) -> float:
        """Returns the communication's share of a run that hid none of it: an upper bound."""
        return self.communication / max(1, self.computation + self.communication)

    @property
    def exposed_share(self) -> float:
        """Returns the communication's share of the run as scheduled."""
        return self.exposed / max(1, self.cycles)


def memory(compiled: jax.stages.Compiled) -> Memory:
    """Returns the compiler's account of a program's memory."""
    stats = compiled.memory_analysis()
    return Memory(
        arguments=stats.argument_size_in_bytes,
        outputs=stats.output_size_in_bytes,
        aliased=stats.alias_size_in_bytes,
        temporaries=stats.temp_size_in_bytes,
        code=stats.generated_code_size_in_bytes,
    )


def flops(compiled: jax.stages.Compiled) -> float | None:
    """Counts floating-point operations on one device as the compiler does: a loop's body once, however often it runs.

    None where it does not count, as for a GPU that is not there.
    """
    counted = compiled.cost_analysis()
    return None if counted is None else float(counted.get("flops", 0.0))


def estimate(program: Program, link_bytes_per_cycle: float) -> Estimate | None:
    """Returns the compiler's estimate of the cycles of a run; None where it gives none (CPU, GPU).

    Computation: the sum of the `estimated_cycles` that the TPU compiler notes on its instructions, times the rounds of the
    loops they are in; a fusion carries those of all that is in it. Prefetches into vector memory have none.

    Communication: the compiler notes no cycles on collectives. Its scheduler reckons with the bytes of a transfer at a rate
    of its own (tpus.Chip), and that rate is used here for every kind: the bytes of `Collective.bytes`, twice for an
    all-reduce, over one link in one direction, without start-up time. A chip has several links, so this is more than a
    collective over many devices should take. What of it is exposed is read off the schedule: the cycles of an asynchronous
    collective less those of the computation between its start and its end; all of a synchronous one.
    """
    computation = sum(execution.times * _cycles(execution.instruction) for execution in executions(program))
    if not computation:
        return None
    communication = exposed = 0.0
    for collective in collectives(program):
        cycles = collective.ways * collective.bytes / link_bytes_per_cycle
        communication += collective.times * cycles
        exposed += collective.times * max(0.0, cycles - collective.overlapped_cycles)
    return Estimate(computation, round(communication), round(exposed))


def collectives(program: Program) -> list[Collective]:
    """Lists every communication of a run, in the order of the schedule; an asynchronous one stands where it starts."""
    found, clocks = [], {}
    for execution in executions(program):
        computation = program.computations[execution.computation]
        for scope, inner in _started_by(program, computation, execution.instruction):
            if execution.computation not in clocks:
                clocks[execution.computation] = _clock(program, computation)
            found.append(
                Collective(
                    kind=_kind(execution.instruction, inner),
                    arrays=_larger_side(scope, inner),
                    times=execution.times,
                    groups=groups(inner.attributes),
                    op_name=(re.search(r'op_name="([^"]*)"', inner.attributes) or ["", ""])[1],
                    overlapped_cycles=_overlap(
                        program, computation, clocks[execution.computation], execution.instruction, inner
                    ),
                )
            )
    return found


def reaches_over(collective: Collective, island: Sequence[int]) -> bool:
    """Tells whether devices that exchange lie on different islands, a slice or a node each; unknown groups do.

    Args:
      collective: any.
      island: number of the island of each place in the mesh, counted row by row.
    """
    if not collective.groups or max(itertools.chain(*collective.groups), default=0) >= len(island):
        return len(set(island)) > 1
    return any(len({island[place] for place in group}) > 1 for group in collective.groups)


def groups(attributes: str) -> tuple[tuple[int, ...], ...] | None:
    """Reads which devices exchange with each other, in any of XLA's notations; None if it is none of those.

    `{{0,1},{2,3}}` lists them; `[2,2]<=[4]` and `[2,2]<=[2,2]T(1,0)` number them all, transpose and cut into rows;
    `mesh['a'=2,'b'=2] {'b'}` names the axes of a mesh along which they lie.
    """
    if explicit := re.search(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}", attributes):
        return tuple(tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", explicit[1]))
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes):
        shape, numbered, order = (tuple(map(int, part.split(","))) if part else () for part in iota.groups())
        ids = np.arange(math.prod(numbered)).reshape(numbered)
        ids = ids.transpose(order) if order else ids
        return tuple(map(tuple, ids.reshape(shape).tolist()))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}:]*)\}", attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", mesh[1])}
        together = [list(sizes).index(name) for name in re.findall(r"'([^']*)'", mesh[2])]
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        ids = np.moveaxis(ids, together, range(-len(together), 0))
        width = math.prod(ids.shape[ids.ndim - len(together) :])
        return tuple(map(tuple, ids.reshape(-1, width).tolist()))
    return None


def _cycles(instruction: Instruction) -> int:
    noted = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(noted[1]) if noted else 0


def _clock(program: Program, computation: Computation) -> dict[str, tuple[int, int]]:
    """Tells when each instruction of a computation begins and ends, in cycles since the computation began."""

    def length(instruction: Instruction, within: Computation) -> int:
        rounds = trip_count(program, within, instruction) or 1 if instruction.opcode == "while" else 1
        inside = [program.computations[name] for name in run_in_place(instruction)]
        return _cycles(instruction) + rounds * sum(
            length(inner, callee) for callee in inside for inner in callee.values()
        )

    times, now = {}, 0
    for instruction in computation.values():
        end = now + length(instruction, computation)
        times[instruction.name] = (now, end)
        now = end
    return times


def _started_by(
    program: Program, computation: Computation, instruction: Instruction
) -> list[tuple[Computation, Instruction]]:
    """Yields the collectives that an instruction runs or starts, with the computations that hold them.

    On TPU an asynchronous collective is a chain of fusions, of which each repeats it: the first hands it to a custom call
    AsyncCollectiveStart, some carry it on beside a computation, the last waits for it. It is the first that counts.
    """
    if instruction.opcode.removesuffix("-start") in KINDS:
        return [(computation, instruction)]
    if instruction.opcode not in ("fusion", "async-start"):
        return []
    inside = []
    for name in instruction.called("calls"):
        callee = program.computations[name]
        starts = {
            operand
            for call in callee.values()
            if '"AsyncCollectiveStart"' in call.attributes
            for operand in call.operands
        }
        inside += [
            (callee, inner)
            for inner in callee.values()
            if inner.opcode in KINDS and (CHAINED not in inner.attributes or inner.name in starts)
        ]
    return inside


def _kind(outer: Instruction, inner: Instruction) -> str:
    if outer.opcode == "fusion" and any("all-reduce-scatter" in name for name in outer.called("calls")):
        return "reduce-scatter"
    return inner.opcode.removesuffix("-start")


def _larger_side(scope: Computation, collective: Instruction) -> tuple[Array, ...]:
    operands = tuple(array for name in collective.operands if name in scope for array in scope[name].result)
    results = collective.result
    if collective.opcode.endswith("-start") and collective.opcode != "all-reduce-start":
        # Operands, results, and perhaps scalars that later instructions need.
        results = tuple(array for array in results if array not in CONTEXT)[len(operands) :]
    return max(operands, results, key=lambda side: sum(array.bytes for array in side))


def _overlap(
    program: Program,
    computation: Computation,
    clock: dict[str, tuple[int, int]],
    start: Instruction,
    inner: Instruction,
) -> int:
    """Cycles of computation between the start of an asynchronous collective and its end."""
    if start.opcode.endswith("-start"):
        done = next((i for i in computation.values() if i.opcode.endswith("-done") and start.name in i.operands), None)
    elif CHAINED in inner.attributes:
        done = next((i for i in computation.values() if _finishes(program, i, inner)), None)
    else:
        return 0
    return clock[done.name][0] - clock[start.name][1] if done else 0


def _finishes(program: Program, instruction: Instruction, collective: Instruction) -> bool:
    """Tells whether a fusion is the last of the chain of an asynchronous collective on TPU."""
    if instruction.opcode != "fusion":
        return False
    identity = re.findall(r'channel_id=\d+|chain_id="\d+"', collective.attributes)
    callee = [inner for name in instruction.called("calls") for inner in program.computations[name].values()]
    return any('"AsyncCollectiveDone"' in inner.attributes for inner in callee) and any(
        inner.opcode == collective.opcode and re.findall(r'channel_id=\d+|chain_id="\d+"', inner.attributes) == identity
        for inner in callee
    )
