"""Every source volume is decoded and preprocessed once; what training reads are uncompressed float32 NIfTI files."""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import filelock
import numpy as np

from data_pipelines import nifti
from data_pipelines.errors import DataError
from data_pipelines.nifti import Volume
from data_pipelines.progress import progress
from data_pipelines.scans import Scan

VERSION = 1  # of what preprocessing does with the same parameters

MAX_WORKERS = 16  # a CT on its way to 1 mm takes about a gigabyte

Preprocessing = Callable[[Path], Volume]


@dataclasses.dataclass(frozen=True)
class Example:
    """One preprocessed volume.

    Attributes:
      name: of the scan.
      path: of the preprocessed volume: uncompressed NIfTI, float32 in [-1, 1].
      source: of the file or DICOM folder it was made from.
      affine: [4, 4] float64, of the preprocessed volume.
      label: of the scan's label map, on the voxels of the source.
      description: what preprocessing noted, such as padding; usually empty.
    """

    name: str
    path: Path
    source: Path
    affine: np.ndarray
    label: Path | None
    description: str


def default_folder() -> Path:
    """Where files made from data are kept unless data.cache says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medjax"


def decode(
    scans: Sequence[Scan], preprocessing: Preprocessing, folder: Path, skip_bad_files: bool = False
) -> dict[str, Example]:
    """Preprocesses the scans that are not in the cache yet, in parallel.

    A cached volume is named by a hash of its source's path, size and time of change and of the preprocessing, so runs
    share it, and a changed source or parameter makes a new one. Several processes may call this at the same time.

    Args:
      scans: what to decode.
      preprocessing: a frozen dataclass, called with a source's path; its repr is part of the hash.
      folder: the cache.
      skip_bad_files: leave out scans that cannot be used, and say so on stderr, instead of raising.

    Returns:
      Examples by scan name, without those skipped.

    Raises:
      DataError: a scan cannot be used (unless skipped), none can, or the cache cannot be written.
    """
    folder = folder / "decoded" / _digest(f"{preprocessing!r} {VERSION}")
    paths = {scan.name: folder / f"{_digest(_state_of(scan.path))}-{nifti.stem(scan.path)}.nii" for scan in scans}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            nifti.remove_unfinished(folder)
            missing = [scan for scan in scans if not paths[scan.name].exists()]
            failures = _fill([(scan, paths[scan.name]) for scan in missing], preprocessing)
    except OSError as error:
        raise nifti.cannot_write(folder, error) from error
    if failures and (not skip_bad_files or len(failures) == len(scans)):
        raise DataError(_summary(failures, len(scans)))
    for error in failures.values():
        print(f"skipped {error}", file=sys.stderr)
    return {scan.name: _example(scan, paths[scan.name]) for scan in scans if scan.name not in failures}


def _fill(missing: list[tuple[Scan, Path]], preprocessing: Preprocessing) -> dict[str, DataError]:
    """Writes what is missing; returns, by scan name, what is wrong with the scans that cannot be used."""

    def fill(scan: Scan, path: Path) -> DataError | None:
        try:
            volume = preprocessing(scan.path)
        except DataError as error:
            return error
        nifti.write(path, volume)
        return None

    failures = {}
    # Threads, not processes: inflating, sorting for quantiles and interpolating all release the interpreter's lock.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_WORKERS)) as pool:
        futures = {pool.submit(fill, scan, path): scan for scan, path in missing}
        try:
            for future in progress(as_completed(futures), len(futures), "decoding volumes"):
                if error := future.result():
                    failures[futures[future].name] = error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a full disk or Ctrl-C: do not go on with the rest
            raise
    return dict(sorted(failures.items()))


def _summary(failures: dict[str, DataError], total: int) -> str:
    message = str(next(iter(failures.values())))
    if len(failures) > 1:
        message += f" (the first of {len(failures)} unusable scans out of {total})"
    return message if len(failures) == total else f"{message}; or set data.skip_bad_files=True to train without"


def _example(scan: Scan, path: Path) -> Example:
    affine, description = nifti.read_header(path)
    return Example(scan.name, path, scan.path, affine, scan.label, description)


def _state_of(path: Path) -> str:
    """Path, size and time of change of a file, or of all files of a DICOM series."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return f"{path.resolve()} {[(stat.st_size, stat.st_mtime_ns) for stat in stats]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
