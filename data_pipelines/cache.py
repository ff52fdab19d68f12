"""Every source volume is decoded and preprocessed once; what training reads are uncompressed NIfTI files, float32 (labels int16).

Beside each lies its checksum, NAME.crc32. A file that is not what was written is not used but made again from its source.
What was doubtful in the source lies there too, NAME.notices.json, and is told at each start.
"""

import dataclasses
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np

from data_pipelines.aside import remove_unfinished
from data_pipelines.cases import Case, DicomSource, Example, files_of
from data_pipelines.decoding import MAX_WORKERS, decode_each, notices_of, refuse_failures, tell_notices
from data_pipelines.formats import nifti, read
from data_pipelines.preprocessing import LABELS, Arrays, Preprocessing, written
from data_pipelines.progress import progress

VERSION = 1  # of what preprocessing does with the same parameters


def default_folder() -> Path:
    """Returns the folder in which files made from data are kept unless data.cache says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medjax"


def decode(
    scans: Sequence[Case], preprocessing: Preprocessing, folder: Path, skip_bad_files: bool = False
) -> dict[str, Example]:
    """Preprocesses the scans that are not in the cache yet, or are damaged there, in parallel.

    A cached volume is named by a hash of its source's path, size, time of change and content and of the preprocessing, so
    runs share it, and a changed source or parameter makes a new one. Several processes may call this at the same time.

    Args:
      scans: what to decode.
      preprocessing: a frozen dataclass, called with a case; what it is `written` as is part of the hash.
      folder: the cache.
      skip_bad_files: leave out scans that cannot be used, and say so on stderr, instead of raising.

    Returns:
      Examples by scan name, without those skipped.

    Raises:
      DataError: a scan cannot be used (unless skipped), none can, or the cache cannot be written.
    """
    folder = folder / "decoded" / _digest(f"{written(preprocessing)} {VERSION}")
    paths = {scan.name: _paths(folder, scan) for scan in scans}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            remove_unfinished(folder)
            files = {name: [*of_scan.values(), _notices_file(of_scan)] for name, of_scan in paths.items()}
            whole = _whole([path for of_scan in files.values() for path in of_scan])
            missing = [scan for scan in scans if not all(whole[path] for path in files[scan.name])]
            failures = decode_each(missing, preprocessing, lambda scan, arrays: _keep(paths[scan.name], arrays))
    except OSError as error:
        raise nifti.cannot_write(folder, error) from error
    refuse_failures(list(failures.values()), len(scans), skip_bad_files)
    for error in failures.values():
        print(f"skipped {error}", file=sys.stderr)
    usable = [scan for scan in scans if scan.name not in failures]
    tell_notices((scan, json.loads(_notices_file(paths[scan.name]).read_text())) for scan in usable)
    return {scan.name: _example(scan, paths[scan.name]) for scan in usable}


def state_of(scan: Case) -> str:
    """Path, size and time of change of each file, or of all files of a DICOM series, and the digest where there is one."""
    lines = []
    for source in scan.sources:
        stats = [file.stat() for file in files_of(source)]
        place = source.series.files[0] if isinstance(source, DicomSource) else source
        lines.append(f"{place.resolve()} {[(stat.st_size, stat.st_mtime_ns) for stat in stats]} {scan.digest}")
    return "\n".join(lines)


def _paths(folder: Path, scan: Case) -> dict[str, Path]:
    """Names the file of each array of a scan: of its one image by the image's own name alone."""
    base = folder / f"{_digest(state_of(scan))}-{read.stem(scan.path)}"
    if len(scan.images) == 1:
        paths = {name: base.with_name(f"{base.name}.nii") for name in scan.images}
    else:
        paths = {name: base.with_name(f"{base.name}-{n}.nii") for n, name in enumerate(scan.images)}
    return paths if scan.label_map is None else paths | {LABELS: base.with_name(f"{base.name}-{LABELS}.nii")}


def _keep(paths: Mapping[str, Path], arrays: Arrays) -> None:
    """Writes arrays and their notices, and after each its checksum: one whose checksum is missing is not whole."""
    doubts = _notices_file(paths)
    doubts.write_text(json.dumps(notices_of(arrays)))
    _checksum_file(doubts).write_text(f"{_checksum(doubts):08x}\n")
    for name, path in paths.items():
        _checksum_file(path).unlink(missing_ok=True)
        if name == LABELS:
            labels = dataclasses.replace(arrays[name], array=arrays[name].array.astype(np.int16))
            nifti.write(path, labels, np.int16)
        else:
            nifti.write(path, arrays[name])
        _checksum_file(path).write_text(f"{_checksum(path):08x}\n")


def _whole(paths: Sequence[Path]) -> dict[Path, bool]:
    """Tells whether each file is there and what was written; reads them all, which training is about to do anyway."""
    there = [path for path in paths if path.exists() and _checksum_file(path).exists()]
    whole = dict.fromkeys(paths, False)
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_WORKERS)) as pool:
        checked = zip(there, pool.map(_is_whole, there), strict=True)
        whole |= progress(checked, len(there), "checking decoded volumes")
    if damaged := [path for path in there if not whole[path]]:
        more = f" and {len(damaged) - 1} others" if len(damaged) > 1 else ""
        print(f"{damaged[0]}{more}: damaged, so decoded again", file=sys.stderr)
    return whole


def _is_whole(path: Path) -> bool:
    return _checksum_file(path).read_bytes() == f"{_checksum(path):08x}\n".encode()


def _checksum(path: Path) -> int:
    with path.open("rb") as file:
        crc = 0
        while block := file.read(2**20):
            crc = zlib.crc32(block, crc)
        return crc


def _notices_file(paths: Mapping[str, Path]) -> Path:
    first = next(iter(paths.values()))
    return first.with_name(f"{first.stem}.notices.json")


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.crc32")


def _example(scan: Case, paths: Mapping[str, Path]) -> Example:
    images = tuple(paths[name] for name in scan.images)
    affine, description = nifti.read_header(images[0])
    scalars = tuple(scan.scalars.values())
    return Example(scan.name, scan.subject, images, paths.get(LABELS), affine, description, scan.label, scalars)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
