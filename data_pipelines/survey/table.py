"""Writes cases.csv: a line for each case that was found, and for each file that is of none."""

import csv
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.aside import written_aside
from data_pipelines.survey.found import Row

CASES_CSV = "cases.csv"  # name of the table in a workdir
COLUMNS = ("name", "subject", "split", "files", "shape", "spacing", "orientation", "status", "reason")
BETWEEN = "|"  # of several files


def write_cases_csv(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows as UTF-8, beside the final name first. Lengths are joined by "x", files by "|".

    Args:
      path: an existing file of that name is replaced.
      rows: with `split` filled in.
    """
    with (
        written_aside(path) as aside,
        # Names that are no UTF-8, which a file may have, are escaped.
        aside.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in rows:
            writer.writerow(
                [
                    row.name,
                    row.subject,
                    row.split,
                    BETWEEN.join(row.files),
                    "x".join(str(n) for n in row.shape),
                    "x".join(f"{edge:.6g}" for edge in row.spacing),
                    row.orientation,
                    row.status,
                    row.reason,
                ]
            )
