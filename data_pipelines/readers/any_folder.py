"""Reads any folder of scans: files of every layout that the survey knows, and DICOM trees."""

import dataclasses
import sys
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.linalg import block_diag

from data_pipelines import notices
from data_pipelines.cases import Case, DicomSource
from data_pipelines.errors import DataError
from data_pipelines.formats import dicom_choice, dicom_series, npy
from data_pipelines.formats.dicom_series import Series
from data_pipelines.readers.folder import chosen_preprocessing
from data_pipelines.readers.reader import Chosen, Found, Reader
from data_pipelines.subjects import subject_of
from data_pipelines.survey import survey, telling
from data_pipelines.survey.found import Row

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def find(root: Path, chosen: Chosen) -> Found:
    """Surveys a folder and says on stderr what is there; DICOM series are cases where no other files are.

    Raises:
      DataError: there is nothing that can be used, or no way to know what is meant.
    """
    found = survey.survey(root, chosen.channels, chosen.label_map, chosen.pattern)
    telling.tell(found)
    notices.tell(found.notices)
    if not chosen.voxel_size and any(npy.is_npy(case.path) for case in found.cases):
        print(f"{root}: .npy files do not say how large voxels are, so 1 mm; else set data.voxel_size", file=sys.stderr)
    if not found.dicom_files:
        return Found(found.cases, found.rows)
    if found.cases:
        left = f"{len(found.dicom_files)} DICOM files, such as {found.dicom_files[0]}, are left out"
        print(f"data.root={root}: there are other files, so {left}; give the folder of one of the two", file=sys.stderr)
        return Found(found.cases, found.rows)
    if chosen.label_map or chosen.pattern:
        key = "data.label_map" if chosen.label_map else "data.pattern"
        raise DataError(f"{key} is set, but data.root={root} holds DICOM files, which have none; leave it unset")
    series = dicom_choice.choose(dicom_series.find_series(root, found.dicom_files))
    dicom_choice.tell(f"data.root={root}", series)
    used = _of_one_modality(root, [one for one in series if one.status == "use"], chosen.channels)
    cases = _cases(root, used, chosen.cache)
    rows = [_row(root, one, case) for one, case in zip(used, cases, strict=True)]
    rows += [_row(root, one) for one in series if one not in used]
    return Found(tuple(cases), tuple(sorted([*found.rows, *rows], key=lambda row: (row.name, row.files))))


def _of_one_modality(root: Path, used: list[Series], channels: tuple[str, ...]) -> list[Series]:
    """The series of the modality that is asked for, or of the only one.

    Raises:
      DataError: there is none, or several and none is asked for.
    """
    counts = Counter(one.modality for one in used)
    there = ", ".join(f"{name} ({count})" for name, count in counts.most_common())
    if not used:
        raise DataError(f"data.root={root}: no DICOM series that is a volume; see cases.csv, or give another folder")
    if len(channels) > 1:
        raise DataError(f"data.channels is {channels}, but a DICOM series is one image; give one of {there}")
    if not channels and len(counts) > 1:
        raise DataError(
            f'data.root={root}: series of {there}; choose one, such as data.channels=("{used[0].modality}",)'
        )
    wanted = channels[0] if channels else used[0].modality
    kept = [one for one in used if one.modality.casefold() == wanted.casefold()]
    if not kept:
        raise DataError(f"data.channels is {channels}: no series of that modality, there are {there}")
    return kept


def _cases(root: Path, used: list[Series], cache: Path) -> list[Case]:
    """A case for each series, named by its folder, and by its number where a folder holds several."""
    folders = [one.files[0].parent.relative_to(root).as_posix() for one in used]
    several = Counter(folders)
    cases, names = [], Counter()
    for one, folder in zip(used, folders, strict=True):
        name = folder if several[folder] == 1 else f"{folder}/{one.patient or one.date}-{one.number}"
        names[name] += 1
        if names[name] > 1:
            name = f"{name}-{names[name]}"
        subject = one.patient or subject_of(name)
        cases.append(Case(name, subject, {one.modality: DicomSource(one, cache)}, visit=one.date))
    return cases


def _row(root: Path, one: Series, case: Case | None = None) -> Row:
    folder = one.files[0].parent.relative_to(root).as_posix() if one.files else ""
    shape = (one.columns, one.rows, one.slices) if one.slices else ()
    files = (f"{folder} ({len(one.files)} files)",)
    row = Row(folder, one.patient, "", files, shape, one.spacing or (), _directions(one))
    if case is None:
        return dataclasses.replace(
            row, reason=one.reason if one.status != "use" else "another modality than is asked for"
        )
    return dataclasses.replace(row, name=case.name, subject=case.subject, status="used", reason=one.reason)


def _directions(one: Series) -> str:
    """Where columns, rows and slices run, nearly, such as "LPS"; empty where slices are no stack."""
    if one.orientation is None:
        return ""
    across, down = np.reshape(one.orientation, (2, 3))
    in_lps = np.column_stack([across, down, np.cross(across, down)])
    return "".join(nib.orientations.aff2axcodes(block_diag(LPS_TO_RAS @ in_lps, 1.0)))


FOLDER = Reader(find=find, preprocessing=chosen_preprocessing, label_maps=True, surveys=True)
