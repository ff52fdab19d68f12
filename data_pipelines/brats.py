"""BraTS 2023 adult glioma, as downloaded, preprocessed as WDM does (Friedrich et al. 2024, arXiv 2402.19043)."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np

from data_pipelines import nifti, transforms
from data_pipelines.errors import DataError
from data_pipelines.folder import list_files
from data_pipelines.nifti import Volume
from data_pipelines.scans import Scan
from data_pipelines.transforms import Shape

NAME = re.compile(r"(BraTS-[A-Za-z]+-\d+)-\d+-t1n\.nii(\.gz)?")  # patient, then the number of the visit
QUANTILES = (0.001, 0.999)


def find_scans(root: Path) -> tuple[Scan, ...]:
    """The native T1 scans BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz ..., at any depth, with their labels.

    Raises:
      DataError: no such folder, or no such scans in it.
    """
    files = list_files(root)
    scans = []
    for path in files:
        if match := NAME.fullmatch(path.name):
            label = path.with_name(path.name.replace("-t1n.", "-seg."))
            scans.append(Scan(path.name.partition("-t1n.")[0], match[1], path, label if label.exists() else None))
    if not scans:
        raise DataError(
            f"data.root={root}: {len(files)} files, none named like BraTS-GLI-00000-000-t1n.nii.gz; "
            "give the folder of the BraTS 2023 download, or use configs/folder.py"
        )
    return tuple(scans)


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
