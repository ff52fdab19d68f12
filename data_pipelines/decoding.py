"""Scans to preprocessed arrays, several at a time, and what becomes of those that cannot be used."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, TypeVar

from data_pipelines import notices
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.preprocessing import Arrays
from data_pipelines.progress import progress

T = TypeVar("T")  # what becomes of a scan: arrays, or numbers
MAX_WORKERS = 16  # a CT on its way to 1 mm takes about a gigabyte


def decode_each(
    scans: Sequence[Case],
    preprocessing: Callable[[Case], T],
    keep: Callable[[Case, T], None],
    what: str = "decoding volumes",
) -> dict[str, DataError]:
    """Preprocesses every scan and hands its arrays to `keep`, from several threads, in no order.

    Args:
      scans: what to decode.
      preprocessing: called with a scan.
      keep: called with a scan and its arrays; what it raises ends everything.
      what: is done, for people.

    Returns:
      By scan name, in that order, what is wrong with the scans that cannot be used.
    """

    def decode(scan: Case) -> DataError | None:
        try:
            arrays = preprocessing(scan)
        except DataError as error:
            return error
        keep(scan, arrays)
        return None

    failures = {}
    # Threads, not processes: inflating, sorting for quantiles and interpolating all release the interpreter's lock.
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_WORKERS)) as pool:
        futures = {pool.submit(decode, scan): scan for scan in scans}
        try:
            for future in progress(as_completed(futures), len(futures), what):
                if error := future.result():
                    failures[futures[future].name] = error
        except BaseException:
            pool.shutdown(cancel_futures=True)  # a full disk or Ctrl-C: do not go on with the rest
            raise
    return dict(sorted(failures.items()))


def notices_of(arrays: Arrays) -> dict[str, list[dict[str, Any]]]:
    """Tells what is doubtful in the files that arrays came of, by their names, as JSON data; those without are left out."""
    return {name: notices.as_plain(volume.notices) for name, volume in arrays.items() if volume.notices}


def tell_notices(noted: Iterable[tuple[Case, Mapping[str, Sequence[Mapping[str, Any]]]]]) -> None:
    """Says on stderr, one line a kind, what `notices_of` found in the files of all scans."""
    notices.tell(
        (scan.images.get(name) or scan.label_map or scan.path, notices.from_plain(plain))
        for scan, of_scan in noted
        for name, plain in of_scan.items()
    )


def refuse_failures(failures: Sequence[DataError | str], total: int, skip_bad_files: bool) -> None:
    """Raises DataError for scans that cannot be used, unless they may be skipped and some of the `total` are left."""
    if not failures or (skip_bad_files and len(failures) < total):
        return
    message = str(failures[0])
    if len(failures) > 1:
        message += f" (the first of {len(failures)} unusable scans out of {total})"
    raise DataError(
        message if len(failures) == total else f"{message}; or set data.skip_bad_files=True to train without"
    )
