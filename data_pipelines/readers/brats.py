"""BraTS, as downloaded: 2023's names and those of 2018 to 2021, whose grades are known.

Preprocessed here as WDM does (Friedrich et al. 2024, arXiv 2402.19043); Medical Diffusion's way is folder.py's, to the "brain".
"""

import csv
import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import transforms
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.preprocessing import OPTION, Arrays, nan_of, of_each, on_one_grid
from data_pipelines.readers import folder
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Found, Reader
from data_pipelines.subjects import subject_of
from data_pipelines.transforms import Shape, to_orientation

# BraTS-GLI-00000-000-t2f.nii.gz: the patient, the visit, the series; BraTS-MEN-RT-0001-1_t1c.nii.gz in 2024's radiotherapy;
# BraTS20_Training_001_flair.nii.gz before.
NAME = re.compile(r"((BraTS(?:-[A-Za-z]+)+-\d+)-\d+)[-_](?P<series>[a-z0-9]+)\.nii(\.gz)?")
EARLIER_NAME = re.compile(r"((BraTS\d*_\w+))_(?P<series>[a-z0-9]+)\.nii(\.gz)?", re.IGNORECASE)
EARLIER = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
SERIES = tuple(EARLIER)
LABEL_MAPS = ("seg", "gtv")  # of radiotherapy: the gross tumour volume
GRADES = {"LGG": 0, "HGG": 1}  # gliomas of low and of high grade
QUANTILES = (0.001, 0.999)


def find_cases(root: Path, channels: Sequence[str] = SERIES[:1]) -> tuple[Case, ...]:
    """The scans BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ..., at any depth, with their label maps.

    A scan that lacks one of the channels is left out.

    Their labels are `GRADES`, of years that tell: by a folder HGG or LGG above the scan, or by name_mapping.csv.

    Args:
      root: as downloaded.
      channels: some of `SERIES`, in the order wanted.

    Raises:
      DataError: no such folder, or no such scans in it.
    """
    files = list_files(root)
    grades = _grades(path for path in files if path.name == "name_mapping.csv")
    known = {written: series for series, earlier in EARLIER.items() for written in (series, earlier)}
    there: dict[tuple[Path, str], dict[str, tuple[Path, re.Match[str]]]] = {}
    for path in files:
        match = NAME.fullmatch(path.name) or EARLIER_NAME.fullmatch(path.name)
        if match and match["series"] in known:
            there.setdefault((path.parent, match[1]), {})[known[match["series"]]] = (path, match)
    scans = []
    for (above, name), images in there.items():
        if not set(channels) <= images.keys():
            continue
        path, match = images[channels[0]]
        start, end = match.span("series")
        beside = (path.with_name(f"{path.name[:start]}{what}{path.name[end:]}") for what in LABEL_MAPS)
        label_map = next((labels for labels in beside if labels.exists()), None)
        by_folder = [GRADES[part] for part in above.relative_to(root).parts if part in GRADES]
        scans.append(
            Case(
                name,
                subject_of(match[2]),
                {channel: images[channel][0] for channel in channels},
                label_map,
                by_folder[0] if by_folder else grades.get(name),
            )
        )
    series = [name for name in SERIES if any(name in images for images in there.values())]
    if not scans and series:
        wanted = " and ".join(channels)
        raise DataError(f"data.root={root}: no scan has {wanted}; set data.series to one there is: {', '.join(series)}")
    if not scans:
        raise DataError(
            f"data.root={root}: {len(files)} files, none named like BraTS-GLI-00000-000-{channels[0]}.nii.gz; "
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
      nan_background: whether voxels that are NaN become the least value, or the file is refused.
    """

    shape: Shape
    orientation: str = "native"
    nan_background: bool = dataclasses.field(default=False, metadata=OPTION)

    def __call__(self, case: Case) -> Arrays:
        arrays = on_one_grid(case, lambda path: nifti.read(path, nan_of(self.nan_background)))
        arrays = {name: transforms.to_orientation(volume, self.orientation) for name, volume in arrays.items()}
        for name, path in case.images.items():
            low, high = np.quantile(arrays[name].array, QUANTILES)
            if not low < high:
                raise DataError(f"{path}: 99.8 % of the voxels are {low:g}; not a T1 scan of a brain, remove it")
            arrays[name] = transforms.window(arrays[name], low, high)
        shape = next(iter(arrays.values())).array.shape
        factor = max(math.ceil(n / m) for n, m in zip(shape, self.shape, strict=True))
        field = tuple(factor * n for n in self.shape)
        return of_each(
            arrays,
            lambda image: transforms.average_pool(transforms.crop_or_pad(image, field, fill=-1.0), factor),
            lambda labels: transforms.pick(transforms.crop_or_pad(labels, field), factor),
        )


def write_made_up(cache: Path, subjects: Atlas, count: int, channels: Sequence[str] = SERIES[:1]) -> Path:
    """Writes subjects as BraTS 2023 lays its own out, in its voxel order (left, posterior, superior).

    Returns:
      The root, as a download of BraTS 2023 would be given.
    """
    root = subjects.folder(cache, "atlas-as-brats")

    def scan(n: int, channel: str) -> Case:
        name = f"BraTS-GLI-{n:05d}-000"
        image = root / name / f"{name}-{channel}.nii.gz"
        return Case(name, name, {channel: image}, root / name / f"{name}-seg.nii.gz")

    for channel in channels or SERIES[:1]:
        scans = [scan(n, channel) for n in range(count)]
        write_files(root, subjects, scans, lambda image: to_orientation(image, "LPS"))
    return root


def chosen_preprocessing(data: Any, shape: Shape) -> Preprocessing | folder.Preprocessing:
    """Makes WDM's preprocessing, or with data.fit="brain" Medical Diffusion's, which is that of any folder."""
    if data.fit == "brain":
        return folder.chosen_preprocessing(data, shape)
    return Preprocessing(shape, data.orientation, data.nan_background)


BRATS = Reader(
    find=lambda root, chosen: Found(find_cases(root, chosen.channels or SERIES[:1])),
    preprocessing=chosen_preprocessing,
    write_made_up=write_made_up,
    channels=SERIES,
    label_maps=True,
    labels=("grade",),
    own_window=lambda data: data.fit != "brain",
)
