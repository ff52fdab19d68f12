"""Counts what a compiled program moves through a device's memory, by kind of operation.

Every instruction that runs by itself reads its operands once and writes its results once; what is fused into it stays in
registers. That is exact for streams. It is too much where an operand is used in part, and too little where a cache does not
hold what is read twice, as cuDNN may do: an account of the program, no measurement.
"""

import dataclasses
import re
from collections import Counter

from medjax.xla.cost import KINDS as COLLECTIVES
from medjax.xla.hlo import Computation, Instruction, Program, executions

# What moves nothing, or is counted where it runs.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
FREE |= {"opt-barrier", "partition-id", "replica-id"}
LIBRARIES = (("convolution", "__cudnn$conv"), ("matrix product", "__cublas"), ("norm", "__cudnn$norm"))


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Counts of one kind of operation in a run.

    Attributes:
      count: number of operations that run.
      bytes: bytes that they read and write.
    """

    count: int
    bytes: int


def traffic(program: Program) -> dict[str, Traffic]:
    """Counts operations and bytes by kind, on one device, most bytes first.

    Kinds: "convolution", "matrix product" and "norm" of NVIDIA's libraries, "transpose" and "copy", which only lay out anew,
    "communication", "reduction" and "elementwise", fused or not, and what else there is by XLA's name for it.
    """
    counts, sizes = Counter(), Counter()
    for execution in executions(program):
        instruction, computation = execution.instruction, program.computations[execution.computation]
        if instruction.opcode in FREE or instruction.opcode.endswith("-done"):
            continue
        kind = kind_of(program, instruction)
        counts[kind] += execution.times
        sizes[kind] += execution.times * bytes_of(computation, instruction)
    return {kind: Traffic(counts[kind], size) for kind, size in sizes.most_common()}


def bytes_of(computation: Computation, instruction: Instruction) -> int:
    """Counts the bytes that an instruction reads and writes."""
    read = (array for name in instruction.operands if name in computation for array in computation[name].result)
    return sum(array.bytes for array in (*read, *instruction.result))


def kind_of(program: Program, instruction: Instruction) -> str:
    """Names the kind of an instruction; a fusion is of the kind of the most telling operation in it."""
    opcode = instruction.opcode.removesuffix("-start")
    if opcode in COLLECTIVES:
        return "communication"
    if opcode == "custom-call":
        target = (re.search(r'custom_call_target="([^"]*)"', instruction.attributes) or ["", ""])[1]
        return next((kind for kind, beginning in LIBRARIES if target.startswith(beginning)), target or opcode)
    if opcode in ("convolution", "dot"):
        return "convolution" if opcode == "convolution" else "matrix product"
    if opcode != "fusion":
        return _simple(opcode)
    inside = {
        inner.opcode for name in instruction.called("calls") for inner in program.computations.get(name, {}).values()
    }
    for telling, kind in (("convolution", "convolution"), ("dot", "matrix product"), ("reduce", "reduction")):
        if telling in inside:
            return kind
    laid_out = inside - FREE - {"convert"}
    return _simple(laid_out.pop()) if len(laid_out) == 1 else "transpose" if "transpose" in laid_out else "elementwise"


def _simple(opcode: str) -> str:
    if opcode in ("transpose", "copy"):
        return opcode
    return "reduction" if opcode.startswith("reduce") else "elementwise"
