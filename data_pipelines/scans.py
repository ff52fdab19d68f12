"""What a dataset is made of: scans as they were found, their division by subject, examples ready to be read."""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Scan:
    """One volume of a dataset, still on disk.

    Attributes:
      name: unique in its dataset; the same wherever the dataset lies.
      subject: whose scan it is; the scans of one subject stay on one side of a split.
      path: a NIfTI or .npy file, or the folder of one DICOM series.
      label_map: a NIfTI file of integer labels on the same voxels, if there is one.
      label: of the whole scan, from 0, if it is known.
    """

    name: str
    subject: str
    path: Path
    label_map: Path | None = None
    label: int | None = None


@dataclasses.dataclass(frozen=True)
class Example:
    """One preprocessed volume.

    Attributes:
      name: of the scan.
      path: of the preprocessed volume, float32 in uncompressed NIfTI (cache.py), or of a record (records.py).
      source: of the file or DICOM folder it was made from; a record does not know it.
      affine: [4, 4] float64, of the preprocessed volume.
      label_map: of the scan, on the voxels of the source; a record has none.
      description: what preprocessing noted, such as padding; usually empty.
      label: of the whole scan, from 0, if it is known.
    """

    name: str
    path: Path
    source: Path | None
    affine: np.ndarray
    label_map: Path | None
    description: str
    label: int | None = None


def split(scans: Sequence[Scan], fractions: tuple[float, float, float]) -> dict[str, tuple[Scan, ...]]:
    """Divides scans into "train", "validation" and "test", by subject.

    Subjects are ranked by a hash of their name, so the division depends on nothing but the names. Train has at least
    one subject; validation too if there are two.

    Args:
      scans: of any number of subjects.
      fractions: of the subjects, in the order train, validation, test; they are normalised to add up to one.
    """
    subjects = sorted({scan.subject for scan in scans}, key=lambda name: hashlib.sha256(name.encode()).digest())
    n = len(subjects)
    _, validation, test = (fraction / sum(fractions) for fraction in fractions)
    n_validation = min(max(1, round(n * validation)), n - 1)
    n_test = min(round(n * test), n - 1 - n_validation)
    sides = dict.fromkeys(subjects, "train")
    sides |= dict.fromkeys(subjects[:n_validation], "validation")
    sides |= dict.fromkeys(subjects[n_validation : n_validation + n_test], "test")
    ordered = sorted(scans, key=lambda scan: scan.name)
    return {side: tuple(scan for scan in ordered if sides[scan.subject] == side) for side in SPLITS}
