"""Reads the text of a compiled program: computations, instructions, loops and how often each instruction runs.

A computation that another one calls runs in its place; the body of a `while` runs as often as the loop goes round. Only
what the text itself says is used, so programs for machines that are not there are read like any other.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

DTYPE_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2}
DTYPE_BYTES |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16}
ARRAY = re.compile(r"\b([a-z][a-z0-9]*)\[([0-9,]*)\]")
CALLEES = re.compile(r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=")
# What reading a text may end in whose compiler writes otherwise than those known here.
UNREADABLE = (ValueError, LookupError, StopIteration, TypeError, AttributeError, RecursionError, NotImplementedError)
NAME = re.compile(r"%([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """Describes one array of an instruction's result: its dtype in XLA's spelling and its shape on one device."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Counts bytes without the padding of a device's memory layout. Types that are no arrays (tokens) count nothing."""
        return self.size * (1 if self.dtype.startswith("f8") else DTYPE_BYTES.get(self.dtype, 0))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Holds one line of a computation: `name = result opcode(operands), attributes`."""

    name: str
    result: tuple[Array, ...]
    opcode: str
    operands: tuple[str, ...]
    literal: str  # between the parentheses, as it stands: the value of a constant
    attributes: str
    is_root: bool = False

    def called(self, *kinds: str) -> tuple[str, ...]:
        """Returns the names of the computations that attributes of these kinds (`calls`, `body`, ...) name."""
        names = []
        for match in CALLEES.finditer(self.attributes):
            if match[1] in kinds:
                rest = self.attributes[match.end() :]
                names += NAME.findall(rest[: rest.index("}")] if rest.startswith("{") else rest.split(",", 1)[0])
        return tuple(names)


Computation = dict[str, Instruction]  # by name, in the order of the schedule


@dataclasses.dataclass(frozen=True)
class Program:
    """Holds the computations of a compiled module by name, and which one is run."""

    computations: dict[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Execution:
    """Holds an instruction that runs: where it stands and how often it runs in one run of the program."""

    instruction: Instruction
    computation: str
    times: int


def parse(text: str) -> Program:
    """Reads `compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    current, entry = None, None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif current is None:
            header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if header and not line.startswith("HloModule"):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif instruction := parse_instruction(line):
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("not the text of a compiled program: it has no ENTRY")
    return Program(computations, entry)


def parse_instruction(line: str) -> Instruction | None:
    """Parses one line of a computation; None if it is something else."""
    head = re.match(r"\s*(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    # Shapes of tuples and memory layouts hold parentheses of their own, so brackets are matched by counting.
    start = head.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.index(" ", start)
    opcode = re.match(r" *([\w\-]+)\(", line[end:])
    if not opcode:
        return None
    opening = end + opcode.end() - 1
    closing = _closing(line, opening)
    literal = line[opening + 1 : closing]
    return Instruction(
        name=head[2],
        result=arrays(line[start:end]),
        opcode=opcode[1],
        operands=tuple(NAME.findall(literal)),
        literal=literal,
        attributes=line[closing + 1 :],
        is_root=bool(head[1]),
    )


def arrays(shape: str) -> tuple[Array, ...]:
    """Parses the arrays in the text of a shape; a tuple has several."""
    return tuple(Array(dtype, tuple(map(int, filter(None, dims.split(","))))) for dtype, dims in ARRAY.findall(shape))


def _closing(line: str, opening: int) -> int:
    """Returns where the parenthesis that opens at `opening` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(line, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unbalanced parentheses: {line[:80]}")


def executions(program: Program) -> Iterator[Execution]:
    """Yields every instruction that runs, in the schedule's order; a fusion or `async-start` is one, with what is in it.

    A branch of a conditional counts as taken. A loop whose length the text does not tell counts once.
    """
    yield from _executions(program, program.entry, 1)


def _executions(program: Program, name: str, times: int) -> Iterator[Execution]:
    computation = program.computations[name]
    for instruction in computation.values():
        yield Execution(instruction, name, times)
        repeats = trip_count(program, computation, instruction) or 1 if instruction.opcode == "while" else 1
        for callee in run_in_place(instruction):
            yield from _executions(program, callee, times * repeats)


def run_in_place(instruction: Instruction) -> tuple[str, ...]:
    """Names the computations whose instructions run, each for itself, where this one stands."""
    if instruction.opcode == "while":
        return instruction.called("condition", "body")
    if instruction.opcode == "call":
        return instruction.called("to_apply", "calls")
    if instruction.opcode == "conditional":
        return instruction.called("branch_computations", "true_computation", "false_computation")
    return ()


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """Tells how often a `while` goes round, None if the text does not.

    The compilers for CPU and GPU note it. That for TPU does not: there a loop `for i in range(start, bound)` is recognised
    by its condition, `i < bound`, with both ends constants, in the condition or among what the loop starts from.
    """
    if noted := re.search(r'known_trip_count[":{ n]*"?(\d+)', loop.attributes):
        return int(noted[1])
    condition = program.computations[loop.called("condition")[0]]
    root = next(instruction for instruction in condition.values() if instruction.is_root)
    mapping = dict(enumerate(root.operands))
    scope = condition
    if root.opcode == "fusion":
        scope = program.computations[root.called("calls")[0]]
        root = next(instruction for instruction in scope.values() if instruction.is_root)
    if root.opcode != "compare" or "direction=LT" not in root.attributes:
        return None

    def value(name: str, scope: Computation) -> int | None:
        """Finds a constant of the condition, or the constant that the loop starts from at the same place."""
        instruction = scope.get(name)
        if instruction is None:
            return None
        if instruction.opcode == "constant":
            return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal) else None
        if instruction.opcode in ("copy", "bitcast", "convert", "reshape"):
            return value(instruction.operands[0], scope)
        if instruction.opcode == "parameter" and scope is not condition and scope is not computation:
            return value(mapping[int(instruction.literal)], condition)
        if instruction.opcode == "get-tuple-element" and scope is condition:
            index = int(re.search(r"index=(\d+)", instruction.attributes)[1])
            start = computation.get(loop.operands[0])
            return value(start.operands[index], computation) if start and start.opcode == "tuple" else None
        return None

    start, bound = (value(operand, scope) for operand in root.operands)
    return None if start is None or bound is None else max(0, bound - start)
