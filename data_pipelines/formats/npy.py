"""Volumes as numpy saves them, .npy: values alone, which say nothing of voxels and their place."""

from pathlib import Path

import numpy as np

from data_pipelines.claims import check_shape
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import check_values


def is_npy(path: Path) -> bool:
    """Whether the name is that of such a file; hidden files are not."""
    return path.suffix == ".npy" and not path.name.startswith(".")


def read(path: Path) -> np.ndarray:
    """A 3D array of numbers, as float32, its axes as stored; axes of length one before or after them are dropped.

    Raises:
      DataError: as `read_unchecked`, or values are not finite or all the same.
    """
    array = read_unchecked(path)
    check_values(path, array)
    return array


def read_unchecked(path: Path) -> np.ndarray:
    """A 3D array as `read` gives it, whatever its values.

    Raises:
      DataError: it is no such file, shorter than its header claims, not one 3D volume of numbers or one of more than
        1024^3.
    """
    array = mapped(path)
    while array.ndim > 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 3 or min(array.shape) < 2 or array.dtype.kind not in "iufb":
        raise DataError(
            f"{path}: {array.dtype} of shape {array.shape} is not a 3D volume of numbers; save one a file, or remove it"
        )
    check_shape(path, array.shape)
    return np.array(array, np.float32)


def mapped(path: Path) -> np.ndarray:
    """The array in a file, of whatever shape and type, none of it read yet.

    Raises:
      DataError: it is no such file, or shorter than its header claims.
    """
    try:
        with np.errstate(over="ignore"):  # of a claim beyond 64 bits
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses what is longer than the file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged header can make numpy raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not a readable .npy file ({reason}); replace or remove it") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {type(array).__name__} is not a 3D volume of numbers; save one a file, or remove it")
    return array
