"""Says on stderr what a survey found, in a few lines."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from data_pipelines import subjects
from data_pipelines.errors import one_line
from data_pipelines.survey.choose import listed
from data_pipelines.survey.found import Row, Survey

MOST_REASONS = 6
MOST_GRIDS = 4
OTHERWISE = "data.pattern=GLOB says otherwise"


def tell(survey: Survey) -> None:
    """Prints `lines` on stderr."""
    for line in lines(survey):
        print(one_line(line), file=sys.stderr)


def lines(survey: Survey) -> list[str]:
    """Says what was found, taken for label maps, left out and why, then orientations and spacings, then doubts."""
    place = f"data.root={survey.root}"
    told = []
    if survey.cases:
        first = survey.cases[0]
        people = len({case.subject for case in survey.cases})
        several = f"; channels: {listed(survey.channels)}" if len(survey.channels) > 1 else ""
        with_maps = sum(case.label_map is not None for case in survey.cases)
        maps = f", {with_maps} with a label map" if with_maps else ""
        told.append(
            f"{place}: {_count(len(survey.cases), 'case')} of {_count(people, 'subject')}{maps} ({survey.layout}), such as "
            f"{first.name} -> {first.subject}{several}"
        )
    if survey.dicom_files:
        told.append(f"{place}: {_count(len(survey.dicom_files), 'DICOM file')}, such as {survey.dicom_files[0]}")
    label_maps = [row for row in survey.rows if row.status == "left out" and row.reason.startswith("label map")]
    if label_maps:
        told.append(f"{place}: taken for label maps, not for images: {summary(label_maps, whole=True)}; {OTHERWISE}")
    left = [row for row in survey.rows if row.status == "left out" and not row.reason.startswith("label map")]
    if left:
        told.append(f"{place}: left out: {summary(left)}")
    unreadable = [row for row in survey.rows if row.status == "unreadable"]
    if unreadable:
        told.append(f"{place}: cannot be read: {summary(unreadable, whole=True)}")
    used = [row for row in survey.rows if row.status == "used"]
    if used:
        told.append(
            f"{place}: orientations {_most(row.orientation for row in used)}; voxels {_most(map(_voxel, used))}"
        )
    told += [f"{place}: {note}" for note in survey.notes]
    if survey.cases:
        told += [f"{place}: {doubt}" for doubt in subjects.doubts([(c.name, c.subject) for c in survey.cases])]
    return told


def summary(rows: Sequence[Row], whole: bool = False) -> str:
    """How many rows there are of each reason, with one as an example, the most frequent reasons first.

    Args:
      rows: with a reason.
      whole: count by whole reasons, not by what stands before the first colon.
    """
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.reason if whole else row.reason.partition(":")[0]].append(row)
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    named = [f"{len(of_it)} {reason} (such as {of_it[0].name})" for reason, of_it in ordered[:MOST_REASONS]]
    more = sum(len(of_it) for _, of_it in ordered[MOST_REASONS:])
    return ", ".join(named) + (f", {more} for other reasons" if more else "")


def _voxel(row: Row) -> str:
    return " x ".join(f"{round(edge, 2):g}" for edge in row.spacing) + " mm"


def _most(values: Iterable[str]) -> str:
    counts = Counter(values).most_common()
    named = ", ".join(f"{value} ({count})" for value, count in counts[:MOST_GRIDS])
    more = sum(count for _, count in counts[MOST_GRIDS:])
    return named + (f" and others ({more})" if more else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
