"""Defines what a dataset is made of: scans as they were found, and examples ready to be read."""

import dataclasses
from pathlib import Path

import numpy as np


@dataclasses.dataclass(frozen=True)
class Case:
    """One volume of a dataset, still on disk.

    Attributes:
      name: unique in its dataset; the same wherever the dataset lies.
      subject: whose scan it is; the scans of one subject stay on one side of a split.
      path: a NIfTI or .npy file, or the folder of one DICOM series.
      label_map: a NIfTI file of integer labels on the same voxels, if there is one.
      label: of the whole scan, from 0, if it is known.
      digest: of what the file holds (contents.py); empty for scans that were made up.
    """

    name: str
    subject: str
    path: Path
    label_map: Path | None = None
    label: int | None = None
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Example:
    """One preprocessed volume.

    Attributes:
      name: of the scan.
      subject: of the scan.
      path: of the preprocessed volume, float32 in uncompressed NIfTI (cache.py), or of a record (records.py).
      source: of the file or DICOM folder it was made from; a record does not know it.
      affine: [4, 4] float64, of the preprocessed volume.
      label_map: of the scan, on the voxels of the source; a record has none.
      description: what preprocessing noted, such as padding; usually empty.
      label: of the whole scan, from 0, if it is known.
    """

    name: str
    subject: str
    path: Path
    source: Path | None
    affine: np.ndarray
    label_map: Path | None
    description: str
    label: int | None = None
