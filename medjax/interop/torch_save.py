"""Writes a state dict as `torch.save` does, without PyTorch: `torch.load(FILE, weights_only=True)` opens it.

The format is described in `torch_load`. The same arrays give the same bytes.
"""

import math
import pathlib
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

ALIGNMENT = 64  # bytes; at multiples of it PyTorch begins each storage, so that it can be mapped into memory
LOCAL_HEADER_SIZE = 30
ARCHIVE = "archive"  # the folder in the zip file that PyTorch takes for granted
FORMAT_VERSION = b"3\n"


def save_state_dict(path: pathlib.Path, state_dict: Mapping[str, np.ndarray]) -> None:
    """Writes float32 arrays by name; those that are one and the same array share their storage in the file too.

    Args:
      path: written over if it exists.
      state_dict: of C-contiguous arrays.

    Raises:
      ValueError: an array is not float32 or not contiguous.
    """
    for name, array in state_dict.items():
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(f"{name} is {array.dtype}, contiguous {array.flags.c_contiguous}: give contiguous float32")
    storages = {id(array): array for array in state_dict.values()}
    keys = {identity: str(n) for n, identity in enumerate(storages)}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "data.pkl", _pickled(state_dict, keys))
        _write(archive, "byteorder", b"little")
        for identity, array in storages.items():
            _write(archive, f"data/{keys[identity]}", array.astype("<f4", copy=False).tobytes())
        _write(archive, "version", FORMAT_VERSION)


def _write(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a record whose content begins at a multiple of ALIGNMENT: its extra field is as long as that takes."""
    entry = zipfile.ZipInfo(f"{ARCHIVE}/{name}")
    start = archive.fp.tell() + LOCAL_HEADER_SIZE + len(entry.filename.encode()) + 4
    padding = -start % ALIGNMENT
    entry.extra = struct.pack("<2sH", b"FB", padding) + bytes(padding)
    archive.writestr(entry, content)


def _pickled(state_dict: Mapping[str, np.ndarray], keys: Mapping[int, str]) -> bytes:
    """The pickle, protocol 2, of an OrderedDict of tensors whose storages are persistent ids."""
    items = [_text(name) + _tensor(array, keys[id(array)]) for name, array in state_dict.items()]
    return b"".join([b"\x80\x02", _global("collections", "OrderedDict"), b")R(", *items, b"u."])


def _tensor(array: np.ndarray, key: str) -> bytes:
    """_rebuild_tensor_v2(storage, offset 0, shape, strides, requires_grad False, no hooks)."""
    storage = b"(" + _text("storage") + _global("torch", "FloatStorage") + _text(key) + _text("cpu") + _int(array.size)
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
