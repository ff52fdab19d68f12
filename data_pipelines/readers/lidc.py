"""LIDC-IDRI thoracic CT, preprocessed as WDM does (Friedrich et al. 2024, arXiv 2402.19043)."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import transforms
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import dicom, nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.preprocessing import OPTION, Arrays, nan_of
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Found, Reader
from data_pipelines.subjects import subject_of
from data_pipelines.transforms import Shape, to_orientation

PATIENT = re.compile(r"LIDC-IDRI-\d{4}")
FIELD_OF_VIEW = 256.0  # mm
AIR = -1000.0  # HU
QUANTILE = 0.999


def find_cases(root: Path) -> tuple[Case, ...]:
    """The CT series of a TCIA download (LIDC-IDRI-0001/STUDY/SERIES/*.dcm), or NIfTI files of them, at any depth.

    Radiographs (DX, CR), which some patients have beside their CT, and DICOM files that are no images are left out.

    Raises:
      DataError: no such folder, or no CT in it.
    """
    files = list_files(root)
    paths = [path for path in files if nifti.is_nifti(path)]
    if not paths:
        folders = sorted({path.parent for path in files if path.suffix.lower() == ".dcm"})
        paths = [path for path in folders if dicom.modality(path) == "CT"]
    if not paths:
        raise DataError(
            f"data.root={root}: {len(files)} files, neither NIfTI nor a CT series of .dcm files; "
            "give the folder of the LIDC-IDRI download"
        )
    return tuple(Case(str(path.relative_to(root)), _patient(path.relative_to(root)), {"ct": path}) for path in paths)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resamples to `spacing`, takes the central 256 mm, clips to [-1000 HU, quantile 0.999], averages to `shape`.

    A scan with less than the field of view is padded with air, which its description then says.

    Attributes:
      shape: (I, J, K) voxels.
      orientation: "RAS", or "native" as published: NIfTI files as they are, DICOM to left, anterior, superior.
      spacing: (I, J, K) mm to resample to; 1 mm as published.
      nan_background: whether voxels that are NaN become the least value, or the file is refused.
    """

    shape: Shape
    orientation: str = "native"
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    nan_background: bool = dataclasses.field(default=False, metadata=OPTION)

    def __call__(self, case: Case) -> Arrays:
        ((name, path),) = case.images.items()
        # LAS is the voxel order that WDM's converter (dicom2nifti) writes.
        if path.is_dir():
            volume = transforms.to_orientation(dicom.read_series(path), "LAS")
        else:
            volume = nifti.read(path, nan_of(self.nan_background))
        volume = zoom(transforms.to_orientation(volume, self.orientation), self.spacing)
        factor = max(1, round(FIELD_OF_VIEW / max(np.multiply(self.spacing, self.shape))))
        field = tuple(factor * n for n in self.shape)
        cropped = transforms.crop_or_pad(volume, tuple(np.minimum(field, volume.array.shape)))
        low, high = max(AIR, cropped.array.min()), np.quantile(cropped.array, QUANTILE)
        if not low < high:
            raise DataError(f"{path}: 99.9 % of the voxels are {high:g} HU or less; not a CT of a chest, remove it")
        padded = transforms.crop_or_pad(transforms.window(cropped, low, high), field, fill=-1.0)
        if padded.array.shape != cropped.array.shape:
            shape = "x".join(str(n) for n in cropped.array.shape)
            padded = dataclasses.replace(padded, description=f"padded with air from {shape}")
        return {name: transforms.average_pool(padded, factor)}


def zoom(volume: Volume, spacing: tuple[float, float, float]) -> Volume:
    """Cubic interpolation as scipy.ndimage.zoom does it, and so WDM: the outermost voxel centres stay where they are.

    The spacing that results is therefore `spacing` only to within half a voxel in the whole edge; the affine has it
    exactly. It does not smooth, so sampling more coarsely aliases; LIDC's slices are thick, its pixels under 1 mm.
    """
    shape = tuple(
        max(2, round(n * old / new)) for n, old, new in zip(volume.array.shape, volume.spacing, spacing, strict=True)
    )
    steps = (np.asarray(volume.array.shape) - 1) / (np.asarray(shape) - 1)
    return transforms.interpolate(volume, shape, steps, order=3)


def _patient(relative: Path) -> str:
    match = PATIENT.search(str(relative))
    return match.group() if match else subject_of(relative.as_posix())


def write_made_up(cache: Path, subjects: Atlas, count: int, channels: Sequence[str] = ()) -> Path:
    """Writes subjects as LIDC-IDRI converted to NIfTI may lie, one folder a patient, with air at -1000 HU.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-lidc")

    def hounsfield(image: Volume) -> Volume:
        return to_orientation(dataclasses.replace(image, array=image.array - 1000), "LPS")

    def scan(n: int) -> Case:
        name = f"LIDC-IDRI-{n + 1:04d}"
        return Case(name, name, {"ct": root / name / f"{name}.nii.gz"})

    write_files(root, subjects, [scan(n) for n in range(count)], hounsfield)
    return root


def chosen_preprocessing(data: Any, shape: Shape) -> Preprocessing:
    """Makes WDM's preprocessing, to the spacing that a config asks for."""
    spacing = tuple(data.spacing or (1.0, 1.0, 1.0))
    return Preprocessing(shape, data.orientation, spacing, data.nan_background)


LIDC = Reader(
    find=lambda root, chosen: Found(find_cases(root)),
    preprocessing=chosen_preprocessing,
    write_made_up=write_made_up,
    own_window=lambda data: True,
)
