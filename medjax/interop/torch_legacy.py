"""Reads PyTorch checkpoints as `torch.save` wrote them before version 1.6: one stream instead of a zip file.

Five pickles follow each other: a magic number, the format's number, what the machine was, the object, and the keys of its
storages. Then come the storages in the order of their keys, each 8 bytes that count its numbers, and the numbers.
"""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.interop.tensor_pickle import Beside, PickleError, interpret_next

MAGIC, FORMAT = 0x1950A86A20F9469CFC6C, 1001
START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9"  # of a pickle of the magic number
COUNT = np.dtype("<i8")


def read_stream(
    content: np.ndarray, largest_pickle: int, itemsizes: Mapping[str, int], beside: Beside
) -> tuple[Any, dict[str, tuple[int, int]]]:
    """Reads the object, and of each storage by its key the first byte and how many bytes it has.

    Args:
      content: the bytes of the file.
      largest_pickle: bytes that all pickles together may have.
      itemsizes: bytes of a number, by the kind of storage ("FloatStorage").
      beside: argument of `interpret`.

    Raises:
      PickleError: it is another format, damaged, or describes what no state dict needs.
    """
    stream = io.BytesIO(content[:largest_pickle].tobytes())
    (magic, number, machine), _ = zip(*(interpret_next(stream, Beside.ANYTHING) for _ in range(3)), strict=True)
    if (magic, number) != (MAGIC, FORMAT) or not isinstance(machine, dict):
        raise PickleError("is in a format of PyTorch that is not known: save it again with a recent PyTorch")
    if not machine.get("little_endian", True):
        raise PickleError("was written on a big-endian machine: save it again on another")
    thing, storages = interpret_next(stream, beside)
    keys, _ = interpret_next(stream)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise PickleError("lists storages that it does not describe: download or copy it again")
    places, start = {}, stream.tell()
    for key in keys:
        storage = storages[key]
        if storage.kind not in itemsizes:
            raise PickleError(f"has a {storage.kind!r:.40}: only plain numbers are read")
        size = storage.numel * itemsizes[storage.kind]
        count = content[start : start + COUNT.itemsize].tobytes()
        if size < 0 or int.from_bytes(count, "little") != storage.numel or start + COUNT.itemsize + size > len(content):
            raise PickleError("is damaged or cut short (a storage has another size): download or copy it again")
        places[key] = start + COUNT.itemsize, size
        start += COUNT.itemsize + size
    return thing, places
