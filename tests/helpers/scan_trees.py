"""Writes small scans, label maps and series under the names that people give them."""

import os
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (10, 12, 8)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None, intent: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.eye(4) if affine is None else affine)
    if intent:
        image.header.set_intent(intent)
    name = path.name.lower()
    # nibabel goes by suffixes in lower case.
    aside = path.with_name("aside" + (".nii.gz" if name.endswith(".gz") else ".nii"))
    if name.endswith(".hdr"):
        nib.save(nib.Nifti1Pair(array, np.eye(4)), path)
    else:
        nib.save(image, aside)
        os.replace(aside, path)
    return path


def scan(path: Path, affine: np.ndarray | None = None, shape: tuple[int, ...] = SHAPE) -> Path:
    """Values of 500 different whole numbers, as scanners store them."""
    return save(path, np.arange(np.prod(shape), dtype=np.int16).reshape(shape) % 500, affine)


def labels(path: Path, dtype: type = np.uint8, count: int = 4) -> Path:
    return save(path, (np.arange(np.prod(SHAPE)).reshape(SHAPE) % count).astype(dtype))


def scans(root: Path, names: Iterable[str]) -> None:
    for name in names:
        scan(root / name)
