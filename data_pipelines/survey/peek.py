"""Reads as few values of a file as tell whether it is a label map: few whole values in all of it, and not one alone."""

import gzip
import zlib
from collections.abc import Iterator

import numpy as np

from data_pipelines.formats.headers import Look

MOST_LABELS = 64  # different whole values
CHUNK = 2**20  # bytes at a time


def few_whole_values(look: Look) -> bool | None:
    """Whether all values are whole numbers, two to `MOST_LABELS` different ones; NaN does not count.

    It is known of an image after its first values that are neither background nor few; a label map is read to its end.

    Args:
      look: what the header says.

    Returns:
      None where that cannot be said: all values are the same, or the file is damaged.
    """
    if look.dtype.kind not in "iufb":
        return None
    seen: set[float] = set()
    try:
        for values in _values(look):
            values = values[np.isfinite(values)]
            if (values != np.rint(values)).any():
                return False
            seen.update(np.unique(values).tolist())
            if len(seen) > MOST_LABELS:
                return False
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return True if len(seen) > 1 else None


def _values(look: Look) -> Iterator[np.ndarray]:
    """The values, scaled, some at a time."""
    size = look.dtype.itemsize
    left = int(np.prod(look.shape)) * size
    if look.voxels.suffix.lower() == ".npy":
        flat = np.load(look.voxels, mmap_mode="r", allow_pickle=False).reshape(-1, order="A")
        for begin in range(0, flat.size, CHUNK // size):
            yield _scaled(flat[begin : begin + CHUNK // size], look)
        return
    with (gzip.open if look.gzipped else open)(look.voxels, "rb") as file:
        file.seek(look.offset)
        while left > 0:
            content = file.read(min(left, CHUNK - CHUNK % size))
            whole = len(content) - len(content) % size
            if whole == 0:
                raise EOFError("shorter than its header claims")
            yield _scaled(np.frombuffer(content[:whole], look.dtype), look)
            left -= len(content)


def _scaled(stored: np.ndarray, look: Look) -> np.ndarray:
    slope, intercept = look.scaling or (1.0, 0.0)
    values = np.asarray(stored).astype(np.float64)
    return values if (slope, intercept) == (1.0, 0.0) else values * slope + intercept
