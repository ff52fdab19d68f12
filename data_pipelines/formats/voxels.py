"""Loads the values that a header has described: to the end of the file, scaled, float32."""

import math
import zlib
from pathlib import Path

import numpy as np
from nibabel.volumeutils import apply_read_scaling

from data_pipelines.claims import check_bytes, check_shape
from data_pipelines.errors import DataError
from data_pipelines.formats.gzipped import inflated
from data_pipelines.formats.headers import Look
from data_pipelines.formats.sniff import reason


def load(path: Path, look: Look) -> np.ndarray:
    """The values of one 3D volume, [I, J, K] float32, scaled in float64.

    A gzip stream is inflated to its end, and its checksum compared.

    Args:
      path: of the file, for messages.
      look: what its header says.

    Raises:
      DataError: values are no numbers, it is not one 3D volume or one of more than 1024^3 voxels, or the file is damaged or
        shorter than its header claims.
    """
    if look.dtype.kind not in "iufb":
        values = "colours (RGB)" if look.dtype.names else str(look.dtype)
        raise DataError(f"{path}: holds {values} values; convert it to a scalar NIfTI volume")
    shape = spatial_shape(path, look.shape)
    check_shape(path, shape)
    count = math.prod(shape)
    size = count * look.dtype.itemsize
    check_bytes(look.voxels, look.offset + size, look.gzipped)
    if look.gzipped:
        stored = np.frombuffer(_inflated(look.voxels, look.offset, size), look.dtype)
    else:
        stored = np.fromfile(look.voxels, look.dtype, count, offset=look.offset)
    stored = stored.reshape(shape, order="F")
    with np.errstate(over="ignore", invalid="ignore"):  # infinite values are refused, or told, by whoever checks values
        if look.scaling:
            stored = apply_read_scaling(stored, *(np.float64(number) for number in look.scaling))
        return stored.astype(np.float32, copy=False)


def spatial_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The three lengths of one volume, without trailing ones.

    Raises:
      DataError: it is a slice, or a series of volumes.
    """
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 3 and min(shape) > 1:
        return shape
    if len(shape) > 3:
        raise DataError(f"{path}: {len(shape)}D of shape {shape}, one 3D volume is needed; split the series into files")
    raise DataError(f"{path}: shape {shape} is not a 3D volume; stack the slices into one file or remove it")


def _inflated(path: Path, start: int, size: int) -> bytearray:
    """The bytes [start, start + size) of what a gzip file holds, which is inflated to its end."""
    content = bytearray(size)
    position = 0  # of the piece, in the stream
    try:
        for piece in inflated(path):
            begin, end = max(position, start), min(position + len(piece), start + size)
            if begin < end:
                content[begin - start : end - start] = memoryview(piece)[begin - position : end - position]
            position += len(piece)
    except (EOFError, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip ({reason(error)}); replace or remove it") from error
    if position < start + size:
        raise DataError(
            f"{path}: the header claims {start + size} bytes, {position} are there: cut short, or a damaged header; "
            "replace or remove it"
        )
    return content
