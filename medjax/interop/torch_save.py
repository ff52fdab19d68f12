"""Writes a state dict as `torch.save` does, without PyTorch: `torch.load(FILE, weights_only=True)` opens it.

The format is described in `torch_load`. The same arrays give the same bytes.
"""

import math
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes; at multiples of it PyTorch begins each storage, so that it can be mapped into memory
LOCAL_HEADER_SIZE = 30
ARCHIVE = "archive"  # the folder in the zip file that PyTorch takes for granted
FORMAT_VERSION = b"3\n"
STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}


def save_state_dict(path: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name; those that are one and the same array share their storage in the file too.

    Args:
      path: written over if it exists.
      state_dict: C-contiguous arrays, float32 or int64, by name.

    Raises:
      ValueError: an array is of another type or not contiguous.
    """
    save_checkpoint(path, state_dict)


def save_checkpoint(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a dictionary of arrays, whole numbers and further such dictionaries, as `save_state_dict` does one of arrays."""
    storages = {id(array): array for array in _arrays(content)}
    keys = {identity: str(n) for n, identity in enumerate(storages)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", b"\x80\x02" + _pickled(content, keys) + b".")
        _write(archive, "byteorder", b"little")
        for identity, array in storages.items():
            little_endian = array.dtype.newbyteorder("<")
            _write(archive, f"data/{keys[identity]}", array.astype(little_endian, copy=False).tobytes())
        _write(archive, "version", FORMAT_VERSION)


def _arrays(content: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """Lists all arrays of a dictionary, in order."""
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray):
            if value.dtype not in STORAGES or not value.flags.c_contiguous:
                kinds = f"{value.dtype}, contiguous {value.flags.c_contiguous}"
                raise ValueError(f"{name} is {kinds}: give contiguous float32 or int64")
            yield value


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a record whose content begins at a multiple of ALIGNMENT: its extra field is as long as that takes."""
    entry = zipfile.ZipInfo(f"{ARCHIVE}/{name}")
    start = archive.fp.tell() + LOCAL_HEADER_SIZE + len(entry.filename.encode()) + 4
    padding = -start % ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(entry, content)


def _pickled(content: Any, keys: Mapping[int, str]) -> bytes:
    """Writes the pickle, protocol 2, of an OrderedDict; of tensors in it the storages are persistent ids."""
    if isinstance(content, np.ndarray):
        return _tensor(content, keys[id(content)])
    if isinstance(content, int):
        return _int(content)
    items = [_text(name) + _pickled(value, keys) for name, value in content.items()]
    return b"".join([_global("collections", "OrderedDict"), b")R(", *items, b"u"])


def _tensor(array: np.ndarray, key: str) -> bytes:
    """Writes _rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, no hooks)."""
    kind = _global("torch", STORAGES[array.dtype])
    storage = b"(" + _text("storage") + kind + _text(key) + _text("cpu") + _int(array.size)
    strides = [math.prod(array.shape[i + 1 :]) for i in range(array.ndim)]
    no_hooks = _global("collections", "OrderedDict") + b")R"
    arguments = storage + b"tQ" + _int(0) + _ints(array.shape) + _ints(strides) + b"\x89" + no_hooks
    return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + arguments + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _int(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


def _ints(numbers: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_int, numbers)) + b"t"
