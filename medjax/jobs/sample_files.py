"""Samples as files, written while the devices draw the next ones."""

import pathlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import nifti
from data_pipelines.transforms import from_network

INT16_MOST = 32767
WRITERS = 4  # threads, each compressing a file
WAITING = 8  # volumes in memory that are not written


def sample_path(folder: pathlib.Path, i: int) -> pathlib.Path:
    """sample_00000.nii.gz and so on."""
    return folder / f"sample_{i:05d}.nii.gz"


@jax.jit
def as_int16(volumes: jax.Array) -> jax.Array:
    """[-1, 1] as whole numbers from -32767 to 32767: on the devices, so that half as much leaves them."""
    return jnp.round(volumes * INT16_MOST).astype(jnp.int16)


class Writer:
    """Writes samples in threads of their own, so that the devices need not wait for compression.

    Leaving its context waits for all files. A file that cannot be written raises there, or at a later `write`.
    """

    def __init__(self):
        self._pool = ThreadPoolExecutor(WRITERS)
        self._written: list[Future] = []

    def write(self, path: pathlib.Path, volume: np.ndarray, data: dict[str, Any]) -> None:
        """As `write_sample`, soon; waits where too many do."""
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
    """A volume [D, H, W] as NIfTI: the training data's voxel order, affine and intensities.

    Args:
      volume: float32 in [-1, 1], or int16 as `as_int16` makes it, which the file then holds with its slope and intercept.
      data: the run's data.json.
    """
    (low, high), affine = data["intensity_range"], np.asarray(data["affine"])
    array = from_network(volume, data["axes"])
    if array.dtype == np.int16:
        scaling = ((high - low) / (2 * INT16_MOST), (low + high) / 2)
        nifti.write(path, nifti.Volume(array, affine), np.int16, scaling)
    else:
        intensities = low + (array + 1.0) / 2.0 * (high - low)
        nifti.write(path, nifti.Volume(intensities.astype(np.float32), affine))
