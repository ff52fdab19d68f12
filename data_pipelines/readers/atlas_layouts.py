"""The atlas subjects as files: a plain dataset; each reader lays them out as its own dataset is by `write_files`."""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np

from data_pipelines.aside import remove_unfinished
from data_pipelines.cases import Case
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.progress import progress
from data_pipelines.readers import atlas
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
        return Case(name, name, {"t1": folder / f"images/{name}.nii.gz"}, folder / f"labels/{name}.nii.gz")

    return write_files(folder, subjects, [scan(n) for n in range(count)], lambda image: image)


def write_files(
    folder: Path,
    subjects: Atlas,
    scans: list[Case],
    change: Callable[[Volume], Volume],
    keep: Callable[[Path, Volume], None] | None = None,
) -> tuple[Case, ...]:
    """Writes scan n from subject n unless it is there; several processes may call this at the same time.

    Args:
      folder: root of the files, which one process at a time writes.
      subjects: whom to draw.
      scans: names and paths, in the order of subjects.
      change: what the dataset's files hold of a subject's image, such as another orientation.
      keep: how an image is written; int16 NIfTI by default.
    """

    def write(n: int) -> None:
        scan = scans[n]
        image, labels = atlas.subject(subjects.seed, n, subjects.size, subjects.lesion_share)
        # The label first: where there is an image, its label is there too.
        if scan.label_map and not scan.label_map.exists():
            labels = labels if scan.path.parent != scan.label_map.parent else to_orientation(labels, "LPS")
            nifti.write(scan.label_map, dataclasses.replace(labels, array=labels.array.astype(np.uint8)), np.uint8)
        image = change(image)
        (keep or _keep)(scan.path, image)

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


def _keep(path: Path, image: Volume) -> None:
    nifti.write(path, dataclasses.replace(image, array=image.array.astype(np.int16)), np.int16)
