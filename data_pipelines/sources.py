"""Turns the `data` part of a config into the scans it asks for, and says what becomes of each."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

from data_pipelines import contents, labels, subjects, transforms
from data_pipelines.cases import Case
from data_pipelines.decoding import refuse_failures
from data_pipelines.errors import DataError
from data_pipelines.preprocessing import Preprocessing
from data_pipelines.preprocessing import parameters as preprocessing_parameters
from data_pipelines.readers import READERS, Chosen, atlas_layouts
from data_pipelines.readers.atlas_layouts import Atlas
from data_pipelines.settings import arrays_of, cache_folder, channels, has_labels, is_made_up, make_preprocessing
from data_pipelines.survey import rows_of, scalars, sides
from data_pipelines.survey.found import Row
from data_pipelines.transforms import Shape


@dataclasses.dataclass(frozen=True)
class Sources:
    """The scans that a config asks for, and what becomes of them.

    Attributes:
      scans: as they were found.
      preprocessing: from one to its arrays.
      parameters: of the dataset they make, the number of usable scans aside.
      rows: lines of cases.csv, without the side of the split; none of scans that were made up.
    """

    scans: tuple[Case, ...]
    preprocessing: Preprocessing
    parameters: dict[str, Any]
    rows: tuple[Row, ...] = ()

    @property
    def unreadable(self) -> int:
        """How many files' headers could not be read."""
        return sum(row.status == "unreadable" for row in self.rows)


def find_sources(data: Any, atlas_count: int | None = None) -> Sources:
    """Finds the scans that a config asks for, or makes them up.

    Args:
      data: as for `open_dataset`.
      atlas_count: how many to make up; as `data` says by default.

    Raises:
      DataError: the scans cannot be found.
    """
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = make_preprocessing(data, shape)
    atlas_count = data.atlas_count if atlas_count is None else atlas_count
    found, fingerprint, rows = _find(data, shape, atlas_count)
    parameters = {
        "preprocessing": preprocessing_parameters(preprocessing),
        "split": tuple(data.split),
        "split_seed": data.split_seed,
        "rules": contents.RULES,
        "fingerprint": fingerprint,
    }
    parameters |= arrays_of(data)
    if data.scalars:
        found = _with_scalars(data, found)
        parameters["scalars"] = _describe_scalars(data, found)
    if data.split_table:
        parameters["split_table"] = _describe_sides(data, found)
    if data.labels:
        found = labels.attach(found, Path(data.labels).expanduser())
    if not has_labels(data):
        return Sources(tuple(dataclasses.replace(scan, label=None) for scan in found), preprocessing, parameters, rows)
    return Sources(found, preprocessing, parameters | {"labels": _describe_labels(data, found)}, rows)


def _with_what_is_asked_for(data: Any, found: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases with their label maps where data.label_map asks for them, less those that have none, and without elsewhere.

    Raises:
      DataError: no case has one.
    """
    if not data.label_map:
        return tuple(dataclasses.replace(scan, label_map=None) for scan in found)
    having = tuple(scan for scan in found if scan.label_map is not None)
    if not having:
        raise DataError(f"data.label_map is True: none of {len(found)} scans has a label map; set it to False")
    if len(having) < len(found):
        without = next(scan for scan in found if scan.label_map is None)
        left_out = (
            f"{len(found) - len(having)} of {len(found)} scans, such as {without.name}, have none and are left out"
        )
        print(f"data.label_map is True: {left_out}", file=sys.stderr)
    return having


def _with_scalars(data: Any, found: tuple[Case, ...]) -> tuple[Case, ...]:
    """The cases with the numbers that data.scalars asks for, NaN where one is not known.

    Raises:
      DataError: there is no table, or it does not serve.
    """
    root = Path(data.root).expanduser() if data.root else None
    path = Path(data.table).expanduser() if data.table else root and scalars.participants(root)
    if path is None:
        there = f"and {root} has no participants.tsv" if root else "and there is no data.root"
        raise DataError(f"data.scalars is {tuple(data.scalars)}, {there}: give a table with data.table=FILE.csv")
    names = tuple(data.scalars)
    attached, told = scalars.attach(found, scalars.read_scalars(path, names), names)
    for line in told:
        print(line, file=sys.stderr)
    return attached


def _describe_scalars(data: Any, found: tuple[Case, ...]) -> dict[str, Any]:
    """The names of numbers, and a fingerprint of whose they are."""
    known = sorted((scan.name, [scan.scalars[name] for name in data.scalars]) for scan in found)
    return {"names": tuple(data.scalars), "fingerprint": _sha256(f"{known}")}


def _describe_sides(data: Any, found: tuple[Case, ...]) -> str:
    """A fingerprint of the sides that data.split_table fixes for these cases' subjects; tells whom it does not know."""
    path = Path(data.split_table).expanduser()
    fixed = sides.fixed_sides(path)
    subjects_there = {scan.subject for scan in found}
    for line in sides.unmatched(path, fixed, subjects_there):
        print(line, file=sys.stderr)
    return _sha256(f"{sorted((subject, fixed[subject]) for subject in subjects_there & fixed.keys())}")


def _chosen(data: Any) -> Chosen:
    reader = READERS[data.name]
    label_name = data.label_name if data.label_name in reader.labels else None
    return Chosen(
        channels=channels(data),
        label_name=label_name,
        voxel_size=tuple(data.voxel_size) if data.voxel_size else None,
        label_map=data.label_map,
        pattern=data.pattern or None,
        cache=cache_folder(data),
    )


def _describe_labels(data: Any, found: tuple[Case, ...]) -> dict[str, Any]:
    """How many labels there are, and a fingerprint of whose they are."""
    known = sorted((scan.name, scan.label) for scan in found if scan.label is not None)
    if not known:
        raise DataError(f"data.label_name is {data.label_name!r}: none of {len(found)} scans has that label; unset it")
    return {"classes": max(2, 1 + max(label for _, label in known)), "fingerprint": _sha256(f"{known}")}


def _find(data: Any, shape: Shape, atlas_count: int) -> tuple[tuple[Case, ...], str, tuple[Row, ...]]:
    """The scans of a dataset, `atlas_count` if they are made up, a fingerprint of their sources, and rows of cases.csv."""
    if is_made_up(data):
        if atlas_count < 1:
            raise DataError(f"data.atlas_count is {atlas_count}; give the number of subjects to make")
        made_up = Atlas(data.atlas_seed, shape, data.lesion_share)
        # Other runs may have asked for more subjects.
        found = _find_made_up(data, made_up, cache_folder(data), atlas_count)[:atlas_count]
        found = _with_what_is_asked_for(data, found)
        if data.label_name == "lesion":
            found = tuple(dataclasses.replace(scan, label=made_up.lesion(n)) for n, scan in enumerate(found))
        # The fingerprint is not of the files, whose compression differs from machine to machine.
        return found, _sha256(f"{made_up} {atlas_count} {atlas_layouts.VERSION}"), ()
    if not data.root:
        raise DataError(
            f"data.root is not set; give the folder of the {data.name} scans with --config.data.root=FOLDER"
        )
    root = Path(data.root).expanduser()
    reader = READERS[data.name]
    there = reader.find(root, _chosen(data))
    unreadable = [f"{root / row.name}: {row.reason}" for row in there.rows if row.status == "unreadable"]
    refuse_failures(unreadable, len(unreadable) + len(there.cases), data.skip_bad_files)
    found = _with_what_is_asked_for(data, there.cases)
    if data.subject_pattern:
        paths = [scan.path.relative_to(root).as_posix() for scan in found]
        found = subjects.regrouped(found, paths, data.subject_pattern)
    if not reader.surveys:
        subjects.tell(f"data.root={root}", [(scan.name, scan.subject) for scan in found])
    digests = contents.case_digests(found)
    found = tuple(dataclasses.replace(scan, digest=digest) for scan, digest in zip(found, digests, strict=True))
    rows = rows_of.whose(there.rows or rows_of.cases(root, there.cases), found)
    return found, contents.fingerprint(found), rows


def _find_made_up(data: Any, made_up: Atlas, cache: Path, count: int) -> tuple[Case, ...]:
    """The scans of made-up subjects, from files laid out as `data.name` says."""
    reader = READERS[data.name]
    if reader.write_made_up is None:
        return atlas_layouts.write_plain(cache, made_up, count)
    return reader.find(reader.write_made_up(cache, made_up, count, channels(data)), _chosen(data)).cases


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
