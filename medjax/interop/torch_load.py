"""Reads the tensors of a PyTorch checkpoint (.pt, .pth) without PyTorch, and without running what is in it.

Since version 1.6 `torch.save` writes a zip file, uncompressed: NAME/data.pkl, a pickle of everything but the numbers, and
a record NAME/data/KEY for each storage, a flat array that one or several tensors look into. A pickle is a program that
can call any function. Here it is interpreted by `tensor_pickle`, and the storages are mapped into memory, not read. Files of
older versions, without the zip file around, are `torch_legacy`'s.
"""

import collections
import dataclasses
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from medjax.errors import UserError
from medjax.interop.safetensors_load import SafetensorsError, is_safetensors, load_tensors
from medjax.interop.state_dict_parts import Found, PartError, choose, listed, quoted, split, state_dicts, tensors
from medjax.interop.tensor_pickle import Beside, Opaque, PickleError, Tensor, interpret
from medjax.interop.torch_legacy import START, read_stream

LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., length of the name, of the extra field
LARGEST_PICKLE = 16 * 2**20  # bytes; that of a network of 500 tensors has 100 kB
MOST_SHARED = 16  # times the size of the file: what its tensors may measure together, where they share storages
MOST_NAMES = 4096  # of one tensor that a network uses in several places
BYTE_ORDER = b"little"
# How texts begin that stand for content which is elsewhere: git LFS's, as Hugging Face has it, and those of git-annex.
POINTERS = (b"version https://", b"/annex/objects/")
FETCH = {b"v": "`git lfs pull`", b"/": "`datalad get FILE` or `git annex get FILE`"}
ALONE = "save the one you mean alone"  # advice where there are several state dicts
DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}


class _Unfit(ValueError):
    """Says what is wrong with the file; the message completes "FILE ..."."""


class _Nothing(_Unfit):
    """Says that the file holds no state dict."""


def load_state_dict(path: pathlib.Path, part: str | None = None, advice: str = ALONE) -> dict[str, np.ndarray]:
    """Reads the state dict in a checkpoint: its tensors by name.

    The file may be the state dict itself or a dictionary that holds one, {"state_dict": ..., "epoch": ...} say; words before
    the names that wrapped the network are taken off. A file of safetensors is read too.

    Args:
      path: file that `torch.save` wrote.
      part: name of the state dict, as `state_dict_parts` has it, where there are several.
      advice: what to do where there are several and `part` names none of them.

    Returns:
      Read-only arrays that, in PyTorch's files, stay there until they are used. bfloat16 is `jnp.bfloat16`.

    Raises:
      UserError: it is no such file, is damaged, holds no state dict, several, or what would run a program.
    """
    return _load(path, lambda content, kind: {"": _the_part(content, kind, part, advice)}, Beside.SETTINGS)[""]


def load_state_dicts(
    path: pathlib.Path, names: Sequence[str], part: str | None = None, advice: str = ALONE
) -> dict[str, dict[str, np.ndarray]]:
    """Reads the state dicts that a training script's checkpoint holds under some names, whatever else it holds.

    Optimisers, settings and objects of whatever classes are passed over: nothing of them is run, or read from the file.

    Args:
      path: file that `torch.save` wrote.
      names: names to look for, of which those that are there count: "model", "ema"; "" is the whole file, a state dict itself.
      part: name of the one to read instead.
      advice: argument of `load_state_dict`.

    Returns:
      By these names, each as `load_state_dict` gives it.

    Raises:
      UserError: the file is not such a one, or has none of them.
    """

    def chosen(content: Any, kind: type) -> dict[str, dict[str, Found]]:
        if part is not None:
            return {part: _the_part(content, kind, part, advice)}
        there = (content if isinstance(content, dict) else {}) | {"": content}
        found = {
            name: tensors(there[name], kind) for name in names if name in there and _is_state_dict(there[name], kind)
        }
        if len(found) > 1:
            found.pop("", None)  # numbers that were saved as tensors beside the networks
        if not found:
            wanted = " or ".join(repr(name) for name in names if name)
            held = ", ".join(quoted(key) for key in list(there)[:6] if key != "") or type(content).__name__
            raise _Unfit(f"holds no state dict {wanted} (it holds {held}): name a checkpoint of the published code")
        # A file that is one list of tensors may have them by names that begin with the parts'.
        return {name: state_dict for key, own in found.items() for name, state_dict in _named(key, own, names, advice)}

    return _load(path, chosen, Beside.ANYTHING)


def _named(
    key: str, own: dict[str, Found], names: Sequence[str], advice: str
) -> Iterator[tuple[str, dict[str, Found]]]:
    """Yields a state dict with the name it was found by, or, of a whole file, those of its parts that are asked for."""
    parts = {".".join(path): part for path, part in split(own).items()}
    wanted = [name for name in names if name in parts and name]
    if key == "" and wanted:
        yield from ((name, parts[name]) for name in wanted)
    else:
        yield key, choose(parts, None, advice)


def _load(
    path: pathlib.Path, pick: Callable[[Any, type], dict[str, dict[str, Found]]], beside: Beside
) -> dict[str, dict[str, np.ndarray]]:
    """Reads the state dicts that `pick` takes from what a file describes."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
        if start.startswith(POINTERS):
            raise _Unfit(f"is a pointer in place of the file: {FETCH[start[:1]]} fetches it")
        if is_safetensors(path, start):
            own = pick(load_tensors(path), np.ndarray)
            return {key: {name: found.tensor for name, found in part.items()} for key, part in own.items()}
        described, records, content = _described(path, start, beside)
        try:
            state_dicts = pick(described, Tensor)
        except _Nothing:
            if beside is not Beside.NOTHING:
                _described(path, start, Beside.NOTHING)  # which may know better why there is nothing
            raise
        seen, found = set(), {}
        for key, own in state_dicts.items():
            most = max(collections.Counter(id(there.tensor) for there in own.values()).values())
            if most > MOST_NAMES:
                raise _Unfit(f"gives one tensor {most} names: save them without sharing")
            arrays = {name: _array(*there, content, records, seen) for name, there in own.items()}
            if sum(array.nbytes for array in arrays.values()) > MOST_SHARED * len(content):
                raise _Unfit(f"has tensors that measure over {MOST_SHARED} times the file: save them without sharing")
            found[key] = arrays
        return found
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name the .pt file") from None
    except PermissionError:
        raise UserError(f"{path} may not be read: allow it or copy it") from None
    except (_Unfit, PickleError, PartError, SafetensorsError) as error:
        raise UserError(f"{path} {error}") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, ValueError, OverflowError, struct.error) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is damaged or cut short ({reason}): download or copy it again") from error


def _described(path: pathlib.Path, start: bytes, beside: Beside) -> tuple[Any, dict[str, "_Record"], np.ndarray]:
    """Reads what a file of PyTorch's describes, where the storages are, and the file as bytes that are mapped into memory."""
    if start.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            pickle, records = _open(archive, path.stat().st_size)
        return interpret(pickle, beside), records, np.memmap(path, np.uint8, "r")
    if start.startswith(START):
        content = np.memmap(path, np.uint8, "r")
        itemsizes = {kind: dtype.itemsize for kind, dtype in DTYPES.items()}
        described, places = read_stream(content, LARGEST_PICKLE, itemsizes, beside)
        return described, {key: _Record(*place) for key, place in places.items()}, content
    raise _Unfit(_what_else(start))


@dataclasses.dataclass(frozen=True)
class _Record:
    """Locates a storage: its first byte and how many there are; in a zip file that of the header before it, and their CRC."""

    start: int
    size: int
    crc: int | None = None


def _open(archive: zipfile.ZipFile, size: int) -> tuple[bytes, dict[str, _Record]]:
    """Reads the pickle, and where the storages are by their keys, in a file of `size` bytes."""
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) < len(archive.infolist()):
        raise _Unfit("has two entries of one name: download or copy it again")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Unfit("is a zip file but not of PyTorch's (no data.pkl): name the .pt file as it was downloaded")
    for name, entry in entries.items():
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _Unfit(f"is compressed ({quoted(name)}), as torch.save never does: save it again with torch.save")
    # Entries that lay in each other would be read as often as there are such.
    if sum(entry.file_size for entry in entries.values()) > size:
        raise _Unfit("is damaged or cut short (its entries claim more than it holds): download or copy it again")
    if entries[pickles[0]].file_size > LARGEST_PICKLE:
        raise _Unfit(f"describes its tensors in more than {LARGEST_PICKLE // 2**20} MiB: it is no state dict")
    prefix = pickles[0].removesuffix("data.pkl")
    order = entries.get(prefix + "byteorder")
    if order and (order.file_size != len(BYTE_ORDER) or archive.read(order) != BYTE_ORDER):
        raise _Unfit("was written on a big-endian machine: save it again on another")
    data = prefix + "data/"
    storages = {
        name.removeprefix(data): _Record(entry.header_offset, entry.file_size, entry.CRC)
        for name, entry in entries.items()
        if name.startswith(data)
    }
    return archive.read(pickles[0]), storages


def _the_part(content: Any, kind: type, part: str | None, advice: str) -> dict[str, Found]:
    """Finds the dictionary of tensors in what a file describes.

    Raises:
      _Unfit: there is none.
      PartError: there are several.
    """
    if isinstance(content, Opaque):
        raise _Nothing("holds a whole model or another object of the training code: save model.state_dict() alone")
    if not isinstance(content, dict):
        raise _Nothing(f"holds a {type(content).__name__} and no state dict: save model.state_dict() alone")
    parts = state_dicts(content, kind)
    if not parts:
        raise _Nothing(f"holds no state dict ({listed(content, 3) or 'it is empty'}): save model.state_dict() alone")
    return choose(parts, part, advice)


def _is_state_dict(value: Any, kind: type) -> bool:
    """Tells whether a dictionary has tensors of its own, and nothing that would run a program."""
    if not isinstance(value, dict) or any(isinstance(item, Opaque) and item.command for item in value.values()):
        return False
    return bool(tensors(value, kind))


def _array(
    name: str, tensor: Tensor, content: np.ndarray, records: Mapping[str, _Record], seen: set[str]
) -> np.ndarray:
    """Returns a tensor as a view of the file; nothing is copied.

    Args:
      content: the bytes of the file.
      records: positions of the storages, by key.
      seen: keys of the storages whose checksums are right; added to.
    """
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    if storage.kind not in DTYPES:
        raise _Unfit(f"has {quoted(name)} as {quoted(storage.kind)}: only plain numbers are read")
    dtype = DTYPES[storage.kind]
    if storage.key not in records:
        raise _Unfit(
            f"lacks the numbers of {quoted(name)} ({quoted('data/' + storage.key)}): download or copy it again"
        )
    record = records[storage.key]
    if storage.numel * dtype.itemsize != record.size:
        raise _Unfit(
            f"has {record.size} bytes for {quoted(name)}, not {storage.numel:} numbers of {dtype}: download or copy it again"
        )
    # Before anything is made of them: the shape is that of no more numbers than the file holds.
    reach = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    if min((tensor.offset, *shape, *strides)) < 0:
        raise _Unfit(f"has {quoted(name)} in a shape that cannot be: download or copy it again")
    if math.prod(shape) > storage.numel or (math.prod(shape) and reach > storage.numel):
        raise _Unfit(f"has {quoted(name)} of shape {shape} in {storage.numel} numbers: download or copy it again")
    if storage.key not in seen:
        if record.crc is not None and zlib.crc32(_bytes_of(record, content)) != record.crc:
            raise _Unfit(f"has damaged numbers (the checksum of {quoted(name)} is wrong): download or copy it again")
        seen.add(storage.key)
    numbers = _bytes_of(record, content).view(dtype)[tensor.offset :] if math.prod(shape) else np.empty(0, dtype)
    # Where there is nothing to step to, a stride may be anything.
    steps = [stride * dtype.itemsize if n > 1 and numbers.size else 0 for n, stride in zip(shape, strides, strict=True)]
    return np.lib.stride_tricks.as_strided(numbers, shape, steps, writeable=False)


def _bytes_of(record: _Record, content: np.ndarray) -> np.ndarray:
    """Finds a storage's content; in a zip file what follows its local header, whose length zipfile does not tell."""
    if record.crc is None:
        return content[record.start : record.start + record.size]
    header = content[record.start : record.start + LOCAL_HEADER.size]
    signature, name_length, extra_length = LOCAL_HEADER.unpack(header.tobytes())
    start = record.start + LOCAL_HEADER.size + name_length + extra_length
    if record.start < 0 or signature != b"PK\x03\x04" or start + record.size > len(content):
        raise zipfile.BadZipFile(f"no entry at byte {record.start}")
    return content[start : start + record.size]


def _what_else(start: bytes) -> str:
    """Says what a file that is no zip file seems to be, and what to do."""
    if start.startswith((b"././@LongLink", b"./", b"storages", b"sys_info")):
        again = "torch.save(torch.load(OLD, weights_only=True), NEW)"
        return f"is in PyTorch's format before version 0.2: save it again in PyTorch, {again}"
    if not start:
        return "is empty: download or copy it again"
    return "is not a PyTorch checkpoint: name the .pt file as it was downloaded"
