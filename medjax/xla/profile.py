"""Finds the operations of a compiled program that take the time, in a trace of the JAX profiler."""

import dataclasses
import pathlib
import re
from collections import defaultdict
from collections.abc import Iterator

import jax

from medjax.xla.hlo import Program

WRAPPERS = ("while", "call", "conditional")  # whose time is that of the operations in them


@dataclasses.dataclass(frozen=True)
class Operation:
    """Holds one instruction of the program, over the whole trace and all devices of a host.

    Attributes:
      name: name in the compiled text, and in the trace when it is opened in a viewer.
      opcode: kind of instruction; "fusion" is many in one.
      place: place in the model that it comes from; empty if the compiler lost it.
      seconds: total time on one host's devices.
      times: number of times it ran.
    """

    name: str
    opcode: str
    place: str
    seconds: float
    times: int


def operations(folder: pathlib.Path, program: Program) -> list[Operation]:
    """Lists the instructions of `program` that ran while the newest trace in a folder was taken, the longest first.

    On a CPU one operation's time holds its share of waiting for others on the same cores.
    """
    instructions = {name: line for block in program.computations.values() for name, line in block.items()}
    nanoseconds, times = defaultdict(float), defaultdict(int)
    for name, duration in _events(folder):
        if name in instructions and instructions[name].opcode not in WRAPPERS:
            nanoseconds[name] += duration
            times[name] += 1
    found = [
        Operation(name, instructions[name].opcode, place_of(instructions[name].attributes), total / 1e9, times[name])
        for name, total in nanoseconds.items()
    ]
    return sorted(found, key=lambda operation: -operation.seconds)


def place_of(attributes: str) -> str:
    """Names the layer that an instruction computes, from its attributes, "backward" before those of the gradient."""
    noted = re.search(r'op_name="([^"]*)"', attributes)
    if not noted:
        return ""
    # jit(step)/transpose(jvp(UNet))/down_0_block_1/conv_0/conv_general_dilated: functions, then modules, then the operation.
    path, wrapped = noted[1], 1
    while wrapped:  # the innermost first
        path, wrapped = re.subn(
            r"\b(jit|jvp|vmap|transpose|checkpoint|remat|rematted_computation|shard_map)\(([^()]*)\)", r"\2", path
        )
    modules = [part for part in path.split("/") if part and part not in ("traced", "train_step", "while", "body")]
    return ("backward " if "transpose(" in noted[1] else "") + "/".join(modules)


def _events(folder: pathlib.Path) -> Iterator[tuple[str, float]]:
    """Yields (instruction's name, nanoseconds) of all that devices did."""
    traces = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        return
    for plane in jax.profiler.ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                if line.name == "XLA Ops":  # of a TPU: the event is named by the instruction's whole text
                    if text := re.match(r"%?([\w.\-]+)", event.name):
                        yield text[1], event.duration_ns
                elif name := dict(event.stats).get("hlo_op"):
                    yield str(name), event.duration_ns
