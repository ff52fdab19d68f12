"""BraTS, as downloaded: 2023's names and those of 2018 to 2021, whose grades are known.

Preprocessed here as WDM does (Friedrich et al. 2024, arXiv 2402.19043); Medical Diffusion's way is folder.py's, to the "brain".
"""

import csv
import dataclasses
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import transforms
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import folder
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Reader
from data_pipelines.subjects import subject_of
from data_pipelines.transforms import Shape, to_orientation

# BraTS-GLI-00000-000-t2f.nii.gz: the patient, the visit, the series; BraTS20_Training_001_flair.nii.gz before.
NAME = re.compile(r"((BraTS-[A-Za-z]+-\d+)-\d+)-(?P<series>[a-z0-9]+)\.nii(\.gz)?")
EARLIER_NAME = re.compile(r"((BraTS\d*_\w+))_(?P<series>[a-z0-9]+)\.nii(\.gz)?", re.IGNORECASE)
EARLIER = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
SERIES = tuple(EARLIER)
GRADES = {"LGG": 0, "HGG": 1}  # gliomas of low and of high grade
QUANTILES = (0.001, 0.999)


def find_cases(root: Path, series: str = "t1n") -> tuple[Case, ...]:
    """The scans BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ..., at any depth, with their label maps.

    Their labels are `GRADES`, of years that tell: by a folder HGG or LGG above the scan, or by name_mapping.csv.

    Args:
      root: as downloaded.
      series: one of `SERIES`.

    Raises:
      DataError: no such folder, or no such scans in it.
    """
    files = list_files(root)
    grades = _grades(path for path in files if path.name == "name_mapping.csv")
    scans = []
    for path in files:
        match = NAME.fullmatch(path.name) or EARLIER_NAME.fullmatch(path.name)
        if match and match["series"] in (series, EARLIER[series]):
            name, subject = match[1], subject_of(match[2])
            start, end = match.span("series")
            label_map = path.with_name(f"{path.name[:start]}seg{path.name[end:]}")
            above = [GRADES[part] for part in path.relative_to(root).parts if part in GRADES]
            grade = above[0] if above else grades.get(name)
            scans.append(Case(name, subject, path, label_map if label_map.exists() else None, grade))
    if not scans:
        raise DataError(
            f"data.root={root}: {len(files)} files, none named like BraTS-GLI-00000-000-{series}.nii.gz; "
            "give the folder of the BraTS download, or use configs/folder.py"
        )
    return tuple(scans)


def _grades(tables: Iterable[Path]) -> dict[str, int]:
    """Reads each patient's grade, by all the names that any year gave the patient."""
    grades = {}
    for table in tables:
        with table.open(newline="") as file:
            for row in csv.DictReader(file):
                if (grade := row.get("Grade")) in GRADES:
                    grades |= {name: GRADES[grade] for key, name in row.items() if key and key.endswith("subject_ID")}
    return grades


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Clips to quantiles, pads about the centre, averages blocks of voxels down to `shape`.

    240 x 240 x 155 voxels come to 256^3, and for 128^3 to their means over 2 x 2 x 2; a scan of another shape goes to
    the smallest whole multiple of `shape` that holds it.

    Attributes:
      shape: (I, J, K) voxels.
      orientation: "native" as published, or "RAS".
    """

    shape: Shape
    orientation: str = "native"

    def __call__(self, path: Path) -> Volume:
        volume = transforms.to_orientation(nifti.read(path), self.orientation)
        low, high = np.quantile(volume.array, QUANTILES)
        if not low < high:
            raise DataError(f"{path}: 99.8 % of the voxels are {low:g}; not a T1 scan of a brain, remove it")
        volume = transforms.window(volume, low, high)
        factor = max(math.ceil(n / m) for n, m in zip(volume.array.shape, self.shape, strict=True))
        padded = transforms.crop_or_pad(volume, tuple(factor * n for n in self.shape), fill=-1.0)
        return transforms.average_pool(padded, factor)


def write_made_up(cache: Path, subjects: Atlas, count: int, series: str | None = None) -> Path:
    """Writes subjects as BraTS 2023 lays its own out, in its voxel order (left, posterior, superior).

    Returns:
      The root, as a download of BraTS 2023 would be given.
    """
    root = subjects.folder(cache, "atlas-as-brats")

    def scan(n: int) -> Case:
        name = f"BraTS-GLI-{n:05d}-000"
        return Case(
            name, name, root / name / f"{name}-{series or SERIES[0]}.nii.gz", root / name / f"{name}-seg.nii.gz"
        )

    write_files(root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, "LPS"))
    return root


def chosen_preprocessing(data: Any, shape: Shape) -> Preprocessing | folder.Preprocessing:
    """Makes WDM's preprocessing, or with data.fit="brain" Medical Diffusion's, which is that of any folder."""
    if data.fit == "brain":
        return folder.chosen_preprocessing(data, shape)
    return Preprocessing(shape, data.orientation)


BRATS = Reader(
    find=lambda root, chosen: find_cases(root, chosen.series or SERIES[0]),
    preprocessing=chosen_preprocessing,
    write_made_up=write_made_up,
    series=SERIES,
    labels=("grade",),
    own_window=lambda data: data.fit != "brain",
)
