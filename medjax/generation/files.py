"""Samples as files: written while the devices draw the next ones, and looked at."""

import dataclasses
import math
import pathlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.formats import affines, nifti
from data_pipelines.transforms import from_network

INT16_MOST = 32767
INT16_NAN = -32768  # what stands for NaN on the way from the devices; a file with NaN holds float32
THREADS = 4  # each compressing a file, or reading one
WAITING = 8  # volumes in memory that are not written


def sample_path(folder: pathlib.Path, i: int) -> pathlib.Path:
    """sample_00000.nii.gz and so on."""
    return folder / f"sample_{i:05d}.nii.gz"


@jax.jit
def as_int16(volumes: jax.Array) -> jax.Array:
    """[-1, 1] as whole numbers from -32767 to 32767, NaN as INT16_NAN: on the devices, so that half as much leaves them."""
    return jnp.where(jnp.isnan(volumes), INT16_NAN, jnp.round(volumes * INT16_MOST)).astype(jnp.int16)


class Writer:
    """Writes samples in threads of their own, so that the devices need not wait for compression.

    Leaving its context waits for all files. A file that cannot be written raises there, or at a later `write`.
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(THREADS)
        self._written: list[Future] = []

    def write(self, path: pathlib.Path, volume: np.ndarray, data: dict[str, Any]) -> None:
        """Writes a sample in the background; blocks while too many wait."""
        while len(self._written) >= WAITING:
            self._written.pop(0).result()
        self._written.append(self._pool.submit(write_sample, path, volume, data))

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *failure: object) -> None:
        self._pool.shutdown(cancel_futures=failure[0] is not None)
        if failure[0] is None:
            for written in self._written:
                written.result()


def write_sample(path: pathlib.Path, volume: np.ndarray, data: dict[str, Any]) -> None:
    """A volume [D, H, W] as NIfTI: the training data's voxel order, affine (without shear) and intensities.

    Args:
      volume: float32 in [-1, 1], or int16 as `as_int16` makes it, which the file then holds with its slope and intercept;
        only a volume with NaN is float32 in any case, for no whole number says that.
      data: the run's data.json.
    """
    low, high = data["intensity_range"]
    array = from_network(volume, data["axes"])
    # Training data may be sheared, which ITK does not open.
    affine = affines.without_shear(np.asarray(data["affine"]), array.shape)
    if array.dtype == np.int16 and (array == INT16_NAN).any():
        array = np.where(array == INT16_NAN, np.float32(np.nan), array / np.float32(INT16_MOST))
    if array.dtype == np.int16:
        scaling = ((high - low) / (2 * INT16_MOST), (low + high) / 2)
        nifti.write(path, nifti.Volume(array, affine), np.int16, scaling)
    else:
        intensities = low + (array + 1.0) / 2.0 * (high - low)
        nifti.write(path, nifti.Volume(intensities.astype(np.float32), affine))


@dataclasses.dataclass(frozen=True)
class Extremes:
    """The range of a sample's intensities.

    Attributes:
      low: the least; NaN where any voxel is.
      high: the greatest, likewise.
    """

    low: float
    high: float

    @property
    def finite(self) -> bool:
        """Whether every voxel is a number."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def constant(self) -> bool:
        """Whether all voxels are the same number."""
        return self.low == self.high


def extremes(path: pathlib.Path) -> Extremes:
    """Reads a sample to see what is in it.

    Raises:
      DataError: the file is damaged.
    """
    array = nifti.read_unchecked(path).array
    return Extremes(float(array.min()), float(array.max()))
