"""Labels of whole scans from a table, for any dataset."""

import csv
import dataclasses
from pathlib import Path

from data_pipelines.cases import Case
from data_pipelines.errors import DataError


def read_table(path: Path) -> dict[str, int]:
    """The labels in a CSV file of lines NAME,LABEL; further columns and a heading without a number are passed over.

    Args:
      path: labels in it are whole numbers from 0.

    Raises:
      DataError: it cannot be read, or a line has no label.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a CSV file of lines NAME,LABEL") from error
    labels = {}
    for number, row in rows:
        text = row[1].strip() if len(row) > 1 else ""
        if text.isdecimal():
            labels[row[0].strip()] = int(text)
        elif number > 1:
            raise DataError(f"{path}: line {number} is {','.join(row)[:60]!r}; write NAME,LABEL with LABEL 0, 1, ...")
    if not labels:
        raise DataError(f"{path}: no line NAME,LABEL in it, with LABEL 0, 1, ...; give one that has some")
    return labels


def attach(scans: tuple[Case, ...], path: Path) -> tuple[Case, ...]:
    """The scans with the table's labels, by their names, else by their subjects'; those in neither way have none.

    Raises:
      DataError: the table cannot be read, or names none of them.
    """
    table = read_table(path)
    labelled = tuple(dataclasses.replace(scan, label=table.get(scan.name, table.get(scan.subject))) for scan in scans)
    if all(scan.label is None for scan in labelled):
        raise DataError(
            f"data.labels={path}: names none of the {len(scans)} scans, such as {scans[0].name}, "
            f"or subjects, such as {scans[0].subject}; correct the names"
        )
    return labelled
