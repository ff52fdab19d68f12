"""Reads what a PyTorch checkpoint's pickle describes, without running it.

A pickle is a program for a stack machine. Unpickling imports and calls what it names, whatever that is, and Python's own
machine also trusts sizes and memo numbers that it finds. This one knows the few instructions that tensors, numbers, texts
and containers need; of functions it knows `FUNCTIONS`, by name, and calls none. What any other would make is, where that is
allowed, an `Opaque`: training scripts leave settings, NumPy's numbers and their own classes beside the tensors, and nobody
here looks into them.

Reading takes time and memory in proportion to the pickle, whatever is in it: nothing is copied as often as it is referred
to, only texts are hashed (Python seeds their hashes, so that none can be made to collide), and no value is ever printed.
"""

import dataclasses
import enum
import io
import pickletools
from typing import Any, BinaryIO

MOST_AXES = 8  # of a tensor
MOST_STEPS = 4_000_000  # instructions, of which a tensor takes 30; what each leaves in memory may be 80 bytes
ADVICE = "in PyTorch, save model.state_dict() alone"
FUNCTIONS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
}
# Of modules and of Python itself what runs a program or takes a file: no settings need it, attacks do.
COMMANDS = frozenset(
    (
        "os",
        "posix",
        "nt",
        "subprocess",
        "commands",
        "pty",
        "shutil",
        "socket",
        "ctypes",
        "importlib",
        "runpy",
        "webbrowser",
    )
)
BUILTINS = frozenset(("eval", "exec", "execfile", "compile", "open", "input", "__import__", "breakpoint"))


class Beside(enum.Enum):
    """Says what may lie beside tensors, plain values and containers; it becomes `Opaque`."""

    NOTHING = enum.auto()
    SETTINGS = enum.auto()  # anything but what names COMMANDS
    ANYTHING = enum.auto()


class PickleError(ValueError):
    """Says that the pickle asks for what is not to be had; the message completes "FILE ..."."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """Names a flat array in a record of its own: its kind ("FloatStorage"), the record's key, and how many numbers it holds."""

    kind: str
    key: str
    numel: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Describes a view of a storage; offset and strides count numbers. They have 64 bits, axes are few; no more is checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Name:
    """Names a class or function of the pickle."""

    module: str
    name: str


@dataclasses.dataclass(frozen=True)
class Opaque:
    """Stands for an object that was passed over: nothing was called to make it, and nothing is kept of it.

    Attributes:
      command: whether what would have made it is one of COMMANDS.
    """

    command: bool = False


class _Mark:
    """Returns where the arguments of the next instruction begin."""


def interpret(pickle: bytes, beside: Beside = Beside.NOTHING) -> Any:
    """Reads the object in a pickle: a `Tensor`, a plain value, or a list, tuple or dictionary of such.

    Args:
      pickle: the bytes.
      beside: what else it may describe. Entries of dictionaries with other keys than texts and whole numbers are left out
        where anything may be. Whole numbers become texts.

    Raises:
      PickleError: it is damaged or describes what may not be.
    """
    return interpret_next(io.BytesIO(pickle), beside)[0]


def interpret_next(stream: BinaryIO, beside: Beside = Beside.NOTHING) -> tuple[Any, dict[str, Storage]]:
    """Reads the next pickle in a stream, which is left behind it, and all storages by their keys, passed over or not."""
    machine = _Machine(beside)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop(), machine.storages
            machine.step(opcode.name, argument)
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise PickleError(f"has a damaged pickle ({type(error).__name__}): download or copy it again") from error
    raise PickleError("has a pickle that does not end: download or copy it again")


class _Machine:
    """Holds the stack, and the memo of what is used again."""

    def __init__(self, beside: Beside):
        self.beside = beside
        self.stack: list[Any] = []
        self.memo: list[Any] = []
        self.storages: dict[str, Storage] = {}
        self.steps = 0  # instructions so far
        self.copied = 0  # items that calls have put into dictionaries of their own

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one instruction, by the name that `pickletools` gives it."""
        stack = self.stack
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise PickleError(f"describes more than tensors, in over {MOST_STEPS} instructions: {ADVICE}")
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[opcode]())
            case "MARK":
                stack.append(_Mark)
            case "TUPLE":
                stack.append(tuple(self.pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self.pop(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = self.pop(1) if opcode == "APPEND" else self.pop_to_mark()
                if not isinstance(stack[-1], Opaque):
                    _of_kind(stack[-1], list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self.pop(2) if opcode == "SETITEM" else self.pop_to_mark()
                if not isinstance(stack[-1], Opaque):
                    self.fill(_of_kind(stack[-1], dict), list(zip(items[::2], items[1::2], strict=True)))
            case "BINPUT" | "LONG_BINPUT":
                self.remember(argument, stack[-1])
            case "MEMOIZE":
                self.memo.append(stack[-1])
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                stack.append(self.named(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                stack.append(self.named(*self.pop(2)))
            case "BINPERSID":
                storage = _storage(*_of_kind(stack.pop(), tuple))
                stack.append(self.storages.setdefault(storage.key, storage))
            case "REDUCE":
                function, arguments = self.pop(2)
                stack.append(self.applied(function, _of_kind(arguments, tuple)))
            case "NEWOBJ" | "NEWOBJ_EX" if self.passes_over:
                made, *_ = self.pop(2 if opcode == "NEWOBJ" else 3)
                stack.append(made if isinstance(made, Opaque) else Opaque())
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8" | "EMPTY_SET" if self.passes_over:
                stack.append(Opaque())
            case "FROZENSET" if self.passes_over:
                self.pop_to_mark()
                stack.append(Opaque())
            case "ADDITEMS" if self.passes_over:
                self.pop_to_mark()
                _of_kind(stack[-1], Opaque)
            case "BUILD":  # a state dict's remark on the versions of its modules
                stack.pop()
                _of_kind(stack[-1], (dict, Opaque))
            case _:
                raise PickleError(f"has a pickle with the instruction {opcode}, which no state dict needs: {ADVICE}")

    @property
    def passes_over(self) -> bool:
        """Tells whether there may be objects that become `Opaque`."""
        return self.beside is not Beside.NOTHING

    def remember(self, number: int, value: Any) -> None:
        """Puts a value into the memo; Python numbers what it puts there from 0, versions before 3 from 1."""
        while len(self.memo) <= number <= len(self.memo) + 1:
            self.memo.append(value)
        self.memo[number] = value

    def pop(self, count: int) -> list[Any]:
        """Returns the last `count` items; there must be so many."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[Any]:
        """Takes off the stack what was put on it since the last mark."""
        items = []
        while (item := self.stack.pop()) is not _Mark:
            items.append(item)
        return items[::-1]

    def named(self, module: Any, name: Any) -> _Name | Opaque:
        """Returns a name that a state dict may hold.

        Raises:
          PickleError: any other, unless it is passed over.
          TypeError: they are no texts.
        """
        _of_kind(module, str), _of_kind(name, str)
        if (module, name) in FUNCTIONS or (module in ("torch", "torch.storage") and name.endswith("Storage")):
            return _Name(module, name)
        root = module.partition(".")[0]
        command = root in COMMANDS or (root in ("builtins", "__builtin__") and name in BUILTINS)
        if self.beside is Beside.ANYTHING or (self.beside is Beside.SETTINGS and not command):
            return Opaque(command)
        named = f"{f'{module:.80}.{name:.80}'!r:.80}"
        raise PickleError(f"names {named}, which a state dict needs not and nothing here runs: {ADVICE}")

    def applied(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """Returns what a call would make."""
        if isinstance(function, Opaque):
            return function
        if function == _Name("collections", "OrderedDict"):
            items = _of_kind(arguments[0], (list, tuple)) if arguments else ()
            self.copied += len(items)
            if self.copied > self.steps:  # a list that was made once is copied time and again
                raise PickleError(f"repeats more than it holds: {ADVICE}")
            return self.fill({}, items)
        return _tensor(_of_kind(function, _Name), arguments)

    def fill(self, target: dict, items: Any = ()) -> dict:
        """Adds the items by their keys as texts."""
        for key, value in items:
            if isinstance(key, str | int):
                target[str(key)] = value
            elif not self.passes_over:
                raise TypeError
        return target


def _tensor(function: _Name, arguments: tuple[Any, ...]) -> Tensor:
    """Returns what a call of one of `FUNCTIONS` that rebuild tensors would make."""
    match (function.module, function.name), arguments:
        case ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), (tensor, *_):
            return _of_kind(tensor, Tensor)
        case ("torch._utils", _), (storage, offset, shape, strides, *_):
            if max(len(_of_kind(shape, tuple)), len(_of_kind(strides, tuple))) > MOST_AXES:
                raise PickleError(
                    f"has a tensor in a shape that cannot be ({len(shape)} axes): download or copy it again"
                )
            numbers = (offset, *shape, *strides)
            if all(map(_is_whole, numbers)):
                return Tensor(_of_kind(storage, Storage), offset, shape, strides)
    raise TypeError


def _storage(tag: Any, kind: Any, key: Any, device: Any, numel: Any, view: Any = None) -> Storage:
    del device  # where the tensor was when it was saved
    if view is not None:
        raise PickleError(
            "has storages inside of storages, as PyTorch 0.3 wrote them: save it again with a recent PyTorch"
        )
    if tag != "storage" or not _is_whole(numel):
        raise TypeError
    return Storage(_of_kind(kind, _Name).name, _of_kind(key, str), numel)


def _is_whole(number: Any) -> bool:
    """Tells whether it is a whole number of 64 bits, as all of PyTorch's are."""
    return type(number) is int and -(2**63) <= number < 2**63


def _of_kind(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value
