"""A DICOM series to a volume, once: what comes of it is kept as NIfTI in the cache, and read from there the next time."""

import gzip
import hashlib
import shutil
import sys
from pathlib import Path

import filelock
import nibabel as nib
import numpy as np

from data_pipelines import contents
from data_pipelines.errors import DataError
from data_pipelines.formats import dicom, nifti
from data_pipelines.formats.dicom_series import Series
from data_pipelines.formats.nifti import Volume

VERSION = 1  # of what conversion makes of the same files
INT16 = np.iinfo(np.int16)


def read(series: Series, cache: Path) -> Volume:
    """Reads a series: from the cache if it has been converted before, and else converts it.

    A conversion is known by the paths, sizes and times of change of the series' files and by blocks of three of them. It
    is written aside and renamed, under a lock; one that is damaged is made again. The series' files are only read.

    Args:
      series: as `find_series` gives it.
      cache: a folder; conversions lie in its folder `converted`.

    Returns:
      [columns, rows, slices] float32 and its RAS+ affine: HU of a CT, rescaled values of all else. Padding is air: -1000
      HU, or the least other value. A tilted gantry is straightened. What was done is said on stderr, when it is done.

    Raises:
      DataError: it is not a regular stack of slices that can be decoded, or the cache cannot be written.
    """
    if series.spacing is None:
        raise DataError(f"{series.name}: {series.reason}; fetch it again or leave it out")
    folder = cache / "converted"
    path = folder / f"{_digest(series)}.nii.gz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f"{path.name}.lock")):
            if (volume := _kept(path)) is not None:
                return volume
            scratch = folder / f".unfinished-{path.name}"  # what a killed process left there goes
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                volume, notices = dicom.read_volume(series, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            nifti.write(path, *_as_stored(volume))
    except OSError as error:
        raise nifti.cannot_write(folder, error) from error
    if notices:
        print(f"{series.name}: {'; '.join(notices)}", file=sys.stderr)
    return volume


def _kept(path: Path) -> Volume | None:
    """An earlier conversion; None if there is none, or it is not whole."""
    if not path.exists():
        return None
    try:
        # Inflated to its end, where the checksum of it all is.
        image = nib.Nifti1Image.from_bytes(gzip.decompress(path.read_bytes()))
        return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64))
    except Exception as error:  # damage can look like nearly anything
        print(f"{path}: damaged ({type(error).__name__}), so converted again", file=sys.stderr)
        return None


def _as_stored(volume: Volume) -> tuple[Volume, type[np.generic]]:
    """Whole numbers of 16 bits, as of nearly every CT, take half the room, and come back as they were."""
    array = volume.array
    if array.min() >= INT16.min and array.max() <= INT16.max and (array == np.rint(array)).all():
        return Volume(array.astype(np.int16), volume.affine), np.int16
    return volume, np.float32


def _digest(series: Series) -> str:
    state = hashlib.sha256(f"{VERSION} {series.modality}".encode())
    try:
        for path in series.files:
            stat = path.stat()
            state.update(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); restore or remove it") from error
    for n in sorted({0, len(series.files) // 2, len(series.files) - 1}):
        state.update(contents.digest(series.files[n]).encode())
    return state.hexdigest()[:16]
