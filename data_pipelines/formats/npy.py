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
      DataError: it is no such file, shorter than its header claims, not one 3D volume of numbers or one of more than
        1024^3, or values are not finite or all the same.
    """
    try:
        with np.errstate(over="ignore"):  # of a claim beyond 64 bits
            array = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses what is longer than the file
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # a damaged header can make numpy raise nearly anything
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not a readable .npy file ({reason}); replace or remove it") from error
    while isinstance(array, np.ndarray) and array.ndim > 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if not isinstance(array, np.ndarray) or array.ndim != 3 or min(array.shape) < 2 or array.dtype.kind not in "iufb":
        found = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"{path}: {found} is not a 3D volume of numbers; save one a file, or remove it")
    check_shape(path, array.shape)
    array = np.array(array, np.float32)
    check_values(path, array)
    return array
