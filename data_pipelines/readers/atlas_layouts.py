"""The atlas subjects as files: a plain dataset, and trees laid out as ADNI, BraTS 2023, Duke's, LIDC-IDRI and MRNet are."""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np

from data_pipelines.aside import remove_unfinished, written_aside
from data_pipelines.cases import Case
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.progress import progress
from data_pipelines.readers import atlas, mrnet
from data_pipelines.transforms import Shape, to_orientation

VERSION = 1  # of the files' contents; raise it when atlas.subject draws differently


@dataclasses.dataclass(frozen=True)
class Atlas:
    """Names a family of made-up subjects: everything their files depend on but the number of them.

    Attributes:
      seed: of the dataset.
      size: (I, J, K) voxels.
      lesion_share: the fraction of subjects with a lesion.
    """

    seed: int
    size: Shape
    lesion_share: float

    def lesion(self, n: int) -> int:
        """The label of subject n: 1 with a lesion, 0 without."""
        return int(atlas.has_lesion(self.seed, n, self.lesion_share))

    def folder(self, cache: Path, layout: str) -> Path:
        """Returns the place of these subjects' files in a cache folder; one folder serves any number of subjects."""
        size = "x".join(str(n) for n in self.size)
        return cache / f"{layout}-v{VERSION}-{size}-seed{self.seed}-lesions{self.lesion_share:g}"


def write_plain(cache: Path, subjects: Atlas, count: int) -> tuple[Case, ...]:
    """Writes subjects 0 .. count - 1 as images/sub-00000.nii.gz and labels/sub-00000.nii.gz, those not there yet.

    Returns:
      Their scans, in order.
    """
    folder = subjects.folder(cache, "atlas")

    def scan(n: int) -> Case:
        name = f"sub-{n:05d}"
        return Case(name, name, folder / f"images/{name}.nii.gz", folder / f"labels/{name}.nii.gz")

    return _write(folder, subjects, [scan(n) for n in range(count)], lambda image: image)


def write_as_adni(cache: Path, subjects: Atlas, count: int) -> Path:
    """Writes subjects as ADNI in NIfTI may lie once skulls are stripped, left, anterior, superior as FSL has them.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-adni")

    def scan(n: int) -> Case:
        name = f"{n // 1000:03d}_S_{n:04d}"
        return Case(name, name, root / name / "MPRAGE" / f"I{n}" / f"ADNI_{name}_MR_MPRAGE_brain_I{n}.nii")

    _write(root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, "LAS"))
    return root


def write_as_brats(cache: Path, subjects: Atlas, count: int, series: str = "t1n") -> Path:
    """Writes subjects as BraTS 2023 lays its own out, in its voxel order (left, posterior, superior).

    Returns:
      The root, as a download of BraTS 2023 would be given.
    """
    root = subjects.folder(cache, "atlas-as-brats")

    def scan(n: int) -> Case:
        name = f"BraTS-GLI-{n:05d}-000"
        return Case(name, name, root / name / f"{name}-{series}.nii.gz", root / name / f"{name}-seg.nii.gz")

    _write(root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, "LPS"))
    return root


def write_as_duke(cache: Path, subjects: Atlas, count: int, series: str = "Dyn_0") -> Path:
    """Writes subjects as Duke-Breast-Cancer-MRI converted to NIfTI lies, one folder a patient.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-duke")

    def scan(n: int) -> Case:
        name = f"Breast_MRI_{n + 1:05d}"
        return Case(name, name, root / name / f"{series}.nii.gz")

    _write(root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, "LPS"))
    return root


def write_as_lidc(cache: Path, subjects: Atlas, count: int) -> Path:
    """Writes subjects as LIDC-IDRI converted to NIfTI may lie, one folder a patient, with air at -1000 HU.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-lidc")

    def hounsfield(image: Volume) -> Volume:
        return to_orientation(dataclasses.replace(image, array=image.array - 1000), "LPS")

    def scan(n: int) -> Case:
        name = f"LIDC-IDRI-{n + 1:04d}"
        return Case(name, name, root / name / f"{name}.nii.gz")

    _write(root, subjects, [scan(n) for n in range(count)], hounsfield)
    return root


def write_as_mrnet(cache: Path, subjects: Atlas, count: int, plane: str = "sagittal") -> Path:
    """Writes subjects as MRNet lays its exams out, all for training; each of its labels tells who has a lesion.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-mrnet")

    def scan(n: int) -> Case:
        name = f"{n:04d}"
        return Case(name, name, root / "train" / plane / f"{name}.npy")

    _write(
        root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, mrnet.DIRECTIONS[plane])
    )
    # Of all exams there are: other runs may have asked for more.
    lines = "".join(f"{n:04d},{subjects.lesion(n)}\n" for n in range(len(list(root.glob("train/*/*.npy")))))
    for name in mrnet.LABELS:
        with written_aside(root / f"train-{name}.csv") as aside:
            aside.write_text(lines)
    return root


def _write(folder: Path, subjects: Atlas, scans: list[Case], change: Callable[[Volume], Volume]) -> tuple[Case, ...]:
    """Writes scan n from subject n unless it is there; several processes may call this at the same time."""

    def write(n: int) -> None:
        scan = scans[n]
        image, labels = atlas.subject(subjects.seed, n, subjects.size, subjects.lesion_share)
        # The label first: where there is an image, its label is there too.
        if scan.label_map:
            labels = labels if scan.path.parent != scan.label_map.parent else to_orientation(labels, "LPS")
            nifti.write(scan.label_map, dataclasses.replace(labels, array=labels.array.astype(np.uint8)), np.uint8)
        image = change(image)
        if scan.path.suffix == ".npy":
            _write_npy(scan.path, image.array)
        else:
            nifti.write(scan.path, dataclasses.replace(image, array=image.array.astype(np.int16)), np.int16)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            remove_unfinished(folder)
            missing = [n for n, scan in enumerate(scans) if not scan.path.exists()]
            if missing:
                atlas.load_template(float(atlas.grid(subjects.size)[0, 0]))  # once, not once a thread
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    for _ in progress(pool.map(write, missing), len(missing), "making atlas subjects"):
                        pass
    except OSError as error:
        raise nifti.cannot_write(folder, error) from error
    return tuple(scans)


def _write_npy(path: Path, array: np.ndarray) -> None:
    """Slices, which the last axis counts, come first; 0 to 255 as MRNet has them."""
    with written_aside(path) as aside:
        np.save(aside, np.moveaxis(array * (255 / 1500), 2, 0).astype(np.uint8))
