"""MRNet knee MRI (Bien et al. 2018), as downloaded: .npy of [slices, rows, columns] in train and valid, by plane."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.aside import written_aside
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import npy
from data_pipelines.formats.nifti import Volume
from data_pipelines.labels import read_table
from data_pipelines.readers import folder
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import Preprocessing as FolderPreprocessing
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Found, Reader
from data_pipelines.transforms import Shape, to_orientation

LABELS = ("abnormal", "acl", "meniscus")
SIDES = ("train", "valid")
# The files say nothing of voxels. Rows and columns of 160 mm / 256 and slices of 3 mm are those of the sagittal turbo spin
# echo of a protocol that is like it (Peterfy et al. 2008, the Osteoarthritis Initiative).
VOXEL_SIZE = (0.625, 0.625, 3.0)
# Where rows, columns and slices go, as radiologists look at each plane: which way slices are counted is not told, nor left
# from right in the sagittal plane.
DIRECTIONS = {"sagittal": "IPR", "coronal": "ILP", "axial": "PLS"}
UNIT = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def find_cases(root: Path, plane: str = "sagittal", label_name: str | None = None) -> tuple[Case, ...]:
    """The exams train/PLANE/0000.npy ... and valid/PLANE/1130.npy ..., here or in MRNet-v1.0 below.

    Args:
      root: as downloaded.
      plane: one of `DIRECTIONS`.
      label_name: one of `LABELS`, read from train-acl.csv and valid-acl.csv: 1 where the exam has it, 0 where not.

    Raises:
      DataError: no such folder, no exams in it, or no such table.
    """
    files = [path for path in list_files(root) if npy.is_npy(path)]
    exams = [path for path in files if path.parent.name == plane and path.parent.parent.name in SIDES]
    if not exams:
        raise DataError(
            f"data.root={root}: {len(files)} .npy files, none in train/{plane} or valid/{plane}; "
            "give the folder of the MRNet download"
        )
    tables = {}
    scans = []
    for path in exams:
        side = path.parent.parent
        if label_name and side not in tables:
            tables[side] = read_table(side.with_name(f"{side.name}-{label_name}.csv"))
        # Exams of one patient are not told from others.
        scans.append(
            Case(path.stem, path.stem, {plane: path}, label=tables[side].get(path.stem) if label_name else None)
        )
    return tuple(scans)


def affine(plane: str, shape: tuple[int, int, int], voxel_size: tuple[float, float, float]) -> np.ndarray:
    """[4, 4], of rows, columns and slices whose middle is the origin."""
    matrix = np.eye(4)
    for axis, (direction, edge) in enumerate(zip(DIRECTIONS[plane], voxel_size, strict=True)):
        matrix[:3, axis] = np.multiply(UNIT[direction], edge)
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return matrix


@dataclasses.dataclass(frozen=True)
class Preprocessing(FolderPreprocessing):
    """Preprocesses an exam like a file of any folder: rows are I, columns J, slices K.

    Attributes:
      plane: one of `DIRECTIONS`.
    """

    voxel_size: tuple[float, float, float] = VOXEL_SIZE
    plane: str = "sagittal"

    def read(self, path: Path) -> Volume:
        """The exam, in the place that `affine` states."""
        volume = super().read(path)
        array = np.ascontiguousarray(np.moveaxis(volume.array, 0, 2))
        return dataclasses.replace(volume, array=array, affine=affine(self.plane, array.shape, self.voxel_size))


def write_made_up(cache: Path, subjects: Atlas, count: int, channels: Sequence[str] = ("sagittal",)) -> Path:
    """Writes subjects as MRNet lays its exams out, all for training; each of its labels tells who has a lesion.

    Returns:
      The root.
    """
    (plane,) = channels or ("sagittal",)
    root = subjects.folder(cache, "atlas-as-mrnet")

    def scan(n: int) -> Case:
        name = f"{n:04d}"
        return Case(name, name, {plane: root / "train" / plane / f"{name}.npy"})

    scans = [scan(n) for n in range(count)]
    write_files(root, subjects, scans, lambda image: to_orientation(image, DIRECTIONS[plane]), _write_npy)
    # Of all exams there are: other runs may have asked for more.
    lines = "".join(f"{n:04d},{subjects.lesion(n)}\n" for n in range(len(list(root.glob("train/*/*.npy")))))
    for name in LABELS:
        with written_aside(root / f"train-{name}.csv") as aside:
            aside.write_text(lines)
    return root


def _write_npy(path: Path, image: Volume) -> None:
    """Slices, which the last axis counts, come first; 0 to 255 as MRNet has them."""
    with written_aside(path) as aside:
        np.save(aside, np.moveaxis(image.array * (255 / 1500), 2, 0).astype(np.uint8))


def chosen_preprocessing(data: Any, shape: Shape) -> Preprocessing:
    """Makes the preprocessing that a config asks for."""
    fields = folder.common_fields(data, shape)
    voxel_size = tuple(data.voxel_size) if data.voxel_size else VOXEL_SIZE
    return Preprocessing(**fields, voxel_size=voxel_size, plane=data.series or "sagittal")


MRNET = Reader(
    find=lambda root, chosen: Found(
        find_cases(root, *(chosen.channels or ("sagittal",)), label_name=chosen.label_name)
    ),
    preprocessing=chosen_preprocessing,
    write_made_up=write_made_up,
    channels=tuple(DIRECTIONS),
    several=False,
    labels=LABELS,
)
