"""Reads numbers of subjects or cases, such as their ages, from a table with a heading."""

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.subjects import SUFFIX

PARTICIPANTS = "participants.tsv"  # at the root of a BIDS dataset
NAMES = ("participant_id", "subject_id", "subject", "case_id", "case", "patient_id", "patient", "name", "id")
SESSIONS = ("session_id", "session", "visit")
UNKNOWN = ("", "n/a", "na", "nan", "none", "null", "unknown", "-", "?")  # in whatever case
DELIMITERS = "\t,;"


@dataclasses.dataclass(frozen=True)
class Table:
    """Holds the numbers of a table.

    Attributes:
      path: of its file.
      rows: by the name in the first column, or (name, session) where there is a column of sessions, the numbers by column;
        NaN for those that are not known.
    """

    path: Path
    rows: Mapping[str | tuple[str, str], Mapping[str, float]]

    def of(self, case: Case) -> Mapping[str, float] | None:
        """The numbers of a case: of its name, its file's, its subject's visit, or its subject, the first there are; else None."""
        subject, visit = _bare(case.subject), _bare(case.visit)
        file = SUFFIX.sub("", PurePosixPath(case.name).name)
        keys = (_bare(case.name), _bare(file), (subject, visit), subject)
        return next((self.rows[key] for key in keys if key in self.rows), None)


def participants(root: Path) -> Path | None:
    """The table that a BIDS dataset has of its subjects, if it is there."""
    path = root / PARTICIPANTS
    return path if path.is_file() else None


def read_scalars(path: Path, names: Sequence[str]) -> Table:
    """Reads columns of a CSV or TSV file with a heading; a comma, a semicolon or a tab parts them.

    Args:
      path: of the file. Whose a line is says the column participant_id, subject, case, name or the like, else the first.
      names: of the columns wanted, in whatever case.

    Raises:
      DataError: it cannot be read, has no such column, or a value in one is no number; or a subject has two values.
    """
    heading, lines = read_lines(path)
    by_name = {title.casefold(): n for n, title in enumerate(heading)}
    whose = next((by_name[name] for name in NAMES if name in by_name), 0)
    session = next((by_name[name] for name in SESSIONS if name in by_name), None)
    missing = [name for name in names if name.casefold() not in by_name]
    if missing:
        raise DataError(
            f"{path}: no column {', '.join(missing)} for data.scalars; its columns are {', '.join(heading)}"
        )
    rows: dict[str | tuple[str, str], dict[str, float]] = {}
    for number, line in lines:
        values = {name: _number(path, number, name, line[by_name[name.casefold()]]) for name in names}
        key = _bare(line[whose]) if session is None else (_bare(line[whose]), _bare(line[session]))
        known = rows.setdefault(key, values)
        if any(not _same(known[name], values[name]) for name in names):
            raise DataError(
                f"{path}: line {number} gives {line[whose]} other values than a line before it; keep one of them"
            )
    return Table(path, rows)


def attach(cases: Sequence[Case], table: Table, names: Sequence[str]) -> tuple[tuple[Case, ...], list[str]]:
    """The cases with the numbers of a table; NaN for those that it does not know.

    Args:
      cases: as they were found.
      table: of these columns.
      names: the columns.

    Returns:
      the cases, and what is worth telling the user, a line each.

    Raises:
      DataError: the table names none of them.
    """
    unknown = dict.fromkeys(names, math.nan)
    found = [table.of(case) for case in cases]
    if cases and not any(row is not None for row in found):
        example = next(iter(table.rows), "nobody")
        raise DataError(
            f"{table.path}: names none of the {len(cases)} cases, such as {cases[0].name}, or subjects, such as "
            f"{cases[0].subject}, but {example}; correct the names"
        )
    attached = tuple(
        dataclasses.replace(case, scalars=dict(row if row is not None else unknown))
        for case, row in zip(cases, found, strict=True)
    )
    told = []
    for name in names:
        without = [case for case in attached if math.isnan(case.scalars[name])]
        if without:
            told.append(
                f"{table.path}: {name} is not known of {len(without)} of {len(cases)} cases, such as {without[0].name}"
            )
    return attached, told


def read_lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The heading of a CSV or TSV file, and its other lines that are not empty, with their numbers.

    A line that is shorter than the heading is filled up.

    Raises:
      DataError: it cannot be read, or has no line but the heading.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); give a CSV or TSV file in UTF-8 with a heading") from error
    first = text.split("\n", 1)[0]
    delimiter = max(DELIMITERS, key=first.count)
    try:
        reader = csv.reader(text.splitlines(), delimiter=delimiter)
        lines = [(reader.line_num, [field.strip() for field in line]) for line in reader if any(line)]
    except csv.Error as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV or TSV file with a heading") from error
    if len(lines) < 2:
        raise DataError(f"{path}: {len(lines)} lines, a heading and a line a subject are needed")
    heading = lines[0][1]
    filled = [(number, line + [""] * (len(heading) - len(line))) for number, line in lines[1:]]
    return heading, filled


def _number(path: Path, line: int, column: str, text: str) -> float:
    if text.casefold() in UNKNOWN:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value) or "_" in text:
        raise DataError(f"{path}: line {line} has {text!r} for {column}, which is no number; correct it, or write n/a")
    return value


def _bare(name: str) -> str:
    """A name without what tables leave out: sub- and ses- of BIDS, in whatever case."""
    folded = name.casefold()
    return folded.removeprefix("sub-").removeprefix("ses-")


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))
