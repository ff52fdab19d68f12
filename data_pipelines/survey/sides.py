"""Reads a table that fixes which side of the split a subject is on."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.splits import SPLITS
from data_pipelines.survey.scalars import read_lines

COLUMNS = ("subject", "split")


def fixed_sides(path: Path) -> dict[str, str]:
    """The side of each subject in a CSV or TSV file with the columns subject and split.

    Raises:
      DataError: it cannot be read, has not these columns, names a side that is none of train, validation, test, or puts a subject
        on two.
    """
    heading, lines = read_lines(path)
    at = {title.casefold(): n for n, title in enumerate(heading)}
    if not all(column in at for column in COLUMNS):
        raise DataError(f"{path}: its columns are {', '.join(heading)}; give a heading subject,split")
    sides: dict[str, str] = {}
    for number, line in lines:
        subject, side = (line[at[column]] for column in COLUMNS)
        if side not in SPLITS:
            raise DataError(f"{path}: line {number} puts {subject} on {side!r}; use one of {', '.join(SPLITS)}")
        if not subject:
            raise DataError(f"{path}: line {number} names no subject; write SUBJECT,{side}")
        if sides.setdefault(subject, side) != side:
            raise DataError(
                f"{path}: line {number} puts {subject} on {side}, a line before it on {sides[subject]}; a subject is on one "
                "side only, keep one of the lines"
            )
    return sides


def unmatched(path: Path, sides: Mapping[str, str], subjects: Iterable[str]) -> list[str]:
    """Which subjects of the table are not there, and which that are there it does not name; a line each for the user.

    Args:
      path: of the table.
      sides: as it fixes them.
      subjects: who were found.

    Raises:
      DataError: it names none of them.
    """
    found = set(subjects)
    absent, unnamed = sorted(sides.keys() - found), sorted(found - sides.keys())
    if found and len(absent) == len(sides):
        raise DataError(
            f"{path}: names none of the {len(found)} subjects, such as {unnamed[0]}, but {absent[0]}; correct the names"
        )
    told = []
    if absent:
        told.append(f"{path}: {len(absent)} of its subjects are not among the scans, such as {absent[0]}")
    if unnamed:
        told.append(
            f"{path}: {len(unnamed)} of {len(found)} subjects are not in it, such as {unnamed[0]}; data.split_seed places them"
        )
    return told
