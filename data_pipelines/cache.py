"""Every source volume is decoded and preprocessed once; what training reads are uncompressed float32 NIfTI files."""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import filelock

from data_pipelines import nifti
from data_pipelines.decoding import Preprocessing, decode_each, refuse_failures
from data_pipelines.scans import Example, Scan

VERSION = 1  # of what preprocessing does with the same parameters


def default_folder() -> Path:
    """Where files made from data are kept unless data.cache says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medjax"


def decode(
    scans: Sequence[Scan], preprocessing: Preprocessing, folder: Path, skip_bad_files: bool = False
) -> dict[str, Example]:
    """Preprocesses the scans that are not in the cache yet, in parallel.

    A cached volume is named by a hash of its source's path, size, time of change and content and of the preprocessing, so
    runs share it, and a changed source or parameter makes a new one. Several processes may call this at the same time.

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
    paths = {scan.name: folder / f"{_digest(_state_of(scan))}-{nifti.stem(scan.path)}.nii" for scan in scans}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            nifti.remove_unfinished(folder)
            missing = [scan for scan in scans if not paths[scan.name].exists()]
            failures = decode_each(missing, preprocessing, lambda scan, volume: nifti.write(paths[scan.name], volume))
    except OSError as error:
        raise nifti.cannot_write(folder, error) from error
    refuse_failures(list(failures.values()), len(scans), skip_bad_files)
    for error in failures.values():
        print(f"skipped {error}", file=sys.stderr)
    return {scan.name: _example(scan, paths[scan.name]) for scan in scans if scan.name not in failures}


def _example(scan: Scan, path: Path) -> Example:
    affine, description = nifti.read_header(path)
    return Example(scan.name, scan.subject, path, scan.path, affine, scan.label_map, description, scan.label)


def _state_of(scan: Scan) -> str:
    """Path, size and time of change of a file, or of all files of a DICOM series, and its digest where it has one."""
    path = scan.path
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [file.stat() for file in files]
    return f"{path.resolve()} {[(stat.st_size, stat.st_mtime_ns) for stat in stats]} {scan.digest}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
