"""Scans are known by what their files hold, not by names, sizes and times alone.

A file is digested from its size and five blocks of 32 kB: the first, the last, and those a quarter, half and three quarters
of the way. So re-processing that leaves the size as it was (bias correction, a stripped skull) is seen, and a compressed
file, whose last bytes are a checksum of everything, in whatever voxel. What is not seen: another value in a few voxels of
an uncompressed file of more than 160 kB, between the blocks. A DICOM series is digested from the sizes of all its files
and from the blocks of its first, middle and last file.

The cost is 160 kB a scan, in one file opened and five places read, at each start of a run, from 16 threads.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from data_pipelines.cases import Case, Source, files_of, name_of
from data_pipelines.errors import DataError

BLOCK = 2**15  # bytes
BLOCKS = 5
THREADS = 16
RULES = 2  # how subjects are named and divided and what is digested; part of the identity of a dataset


def case_digests(cases: Sequence[Case]) -> list[str]:
    """The digests of cases, in their order: that of the one file, or a hash of those of all files.

    Raises:
      DataError: one cannot be read.
    """
    of_files = iter(digests([source for case in cases for source in case.sources]))
    return [_joined([next(of_files) for _ in case.sources]) for case in cases]


def digests(sources: Sequence[Source]) -> list[str]:
    """The digests of files and DICOM folders, in their order.

    Raises:
      DataError: one cannot be read.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(digest, sources))


def digest(source: Source) -> str:
    """16 hexadecimal digits for a file or a DICOM series.

    Raises:
      DataError: it cannot be read.
    """
    state = hashlib.sha256()
    try:
        files = files_of(source)
        sizes = [file.stat().st_size for file in files]
        state.update(f"{sizes}".encode())
        for n in sorted({0, len(files) // 2, len(files) - 1} if files else ()):
            _add_blocks(state, files[n], sizes[n])
    except OSError as error:
        raise DataError(
            f"{name_of(source)}: cannot be read ({error.strerror or error}); restore or remove it"
        ) from error
    return state.hexdigest()[:16]


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def digests_by_name(scans: Iterable[Case]) -> dict[str, str]:
    """The digests of scans by their names, without those that were made up."""
    return {scan.name: scan.digest for scan in scans if scan.digest}


def fingerprint(scans: Iterable[Case]) -> str:
    """A hash of the names, subjects and contents of scans, whatever their order."""
    lines = sorted(f"{scan.name}\t{scan.subject}\t{scan.digest}" for scan in scans)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def difference(known: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """The first thing in words by which the data at hand are not those known from before; None where nothing is known.

    Args:
      known, here: {"identity": as `Dataset.identity` gives it, or None, "scans": the digests by name, where known}.
    """
    there, found = known.get("identity"), here.get("identity")
    if not isinstance(there, Mapping) or not isinstance(found, Mapping) or there == found:
        return None
    if there.get("rules", 1) != found.get("rules", 1):
        return (
            "its subjects were divided, and its scans known, by other rules than these (of an earlier or later version); "
            "go on with the version that made it, or begin anew"
        )
    if scales := _scales_apart(there, found):
        return scales
    if there.get("fingerprint") != found.get("fingerprint"):
        for key in sorted((there.keys() | found.keys()) - {"fingerprint", "count"}):
            if there.get(key) != found.get(key):
                break  # another setting, which says more than what follows from it
        else:
            return changed_scan(known.get("scans") or {}, here.get("scans") or {}) or "whose scans they are differs"
    return None


def _scales_apart(there: Mapping[str, Any], here: Mapping[str, Any]) -> str | None:
    """Says in words that intensities are standardised on one side alone, or on another scale; None where they are alike."""
    both = [identity.get("preprocessing") for identity in (there, here)]
    first, second = (known.get("scales") if isinstance(known, Mapping) else None for known in both)
    if first == second:
        return None
    if first is None or second is None:
        on = ("off there and on", "on there and off")[second is None]
        return f"data.standardise is {on} here"
    return (
        "intensities are on another standard scale (data.standardise); records keep a run's if they are prepared with its "
        "--workdir"
    )


def changed_scan(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    """The first scan, by name, that is another one, new or gone, in words; None where none is, or none is known."""
    if not (isinstance(there, Mapping) and isinstance(here, Mapping) and there and here):
        return None
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) != here.get(name):
            how = "is gone" if name not in here else "is new" if name not in there else "holds something else"
            return f"{name} {how}"
    return None


def holds_all(known: Any, here: Mapping[str, str]) -> bool:
    """Whether all scans of a record, of digests by name, are here and hold the same; not where none is recorded."""
    return isinstance(known, Mapping) and bool(known) and known.items() <= here.items()


def _add_blocks(state: Any, path: Path, size: int) -> None:
    """Adds the blocks of a file to a hash; all of a file that is no longer than they are."""
    with path.open("rb", buffering=0) as file:
        if size <= BLOCK * BLOCKS:
            state.update(file.read(BLOCK * BLOCKS))
            return
        for n in range(BLOCKS):
            file.seek(n * (size - BLOCK) // (BLOCKS - 1))
            state.update(file.read(BLOCK))
