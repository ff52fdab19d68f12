"""Makes lines of cases.csv from cases, for readers that survey nothing but their own files, and completes those of a survey."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import read
from data_pipelines.survey.found import Row

THREADS = 16


def cases(root: Path, found: Sequence[Case]) -> tuple[Row, ...]:
    """A row for each case, with what the header of its first image says."""
    with ThreadPoolExecutor(THREADS) as pool:
        return tuple(pool.map(lambda case: _row(root, case), found))


def whose(rows: Iterable[Row], used: Sequence[Case]) -> tuple[Row, ...]:
    """The rows with the subjects of the cases that are used; other cases are left out."""
    subjects = {case.name: case.subject for case in used}
    return tuple(
        dataclasses.replace(row, subject=subjects[row.name])
        if row.name in subjects
        else dataclasses.replace(row, status="left out", reason="no label map")
        if row.status == "used"
        else row
        for row in rows
    )


def divided(rows: Iterable[Row], side_of: Mapping[str, str]) -> tuple[Row, ...]:
    """The rows with the side of the split of each case that is used."""
    return tuple(dataclasses.replace(row, split=side_of[row.subject]) if row.status == "used" else row for row in rows)


def _row(root: Path, case: Case) -> Row:
    files = tuple(_below(root, source) for source in case.sources if isinstance(source, Path))
    row = Row(case.name, case.subject, files=files, status="used")
    if case.path.is_dir():
        return row
    try:
        look = read.look(case.path)
    except DataError as error:
        return dataclasses.replace(row, reason=str(error).removeprefix(f"{case.path}: "))
    spacing = tuple(float(edge) for edge in look.spacing)
    return dataclasses.replace(row, shape=tuple(look.shape), spacing=spacing, orientation=look.orientation)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
