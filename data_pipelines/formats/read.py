"""Reads a file of any format that holds one volume: NIfTI, Analyze, MGH, numpy. DICOM is a folder, not a file: dicom.py."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.formats import mgh, nifti, npy
from data_pipelines.formats.headers import Look
from data_pipelines.formats.nifti import MOST_NAN, Nan, Volume

PAIRED = (".hdr", ".hdr.gz", ".img", ".img.gz")
SUFFIXES = (*nifti.SUFFIXES, *PAIRED, *mgh.SUFFIXES, ".npy")
# Volumes too, but read by libraries that this project does without: SimpleITK is how it checks itself.
CONVERTED = {
    (".nrrd", ".nhdr", ".mha", ".mhd"): 'convert it: pip install SimpleITK; python -c "import sys, SimpleITK as s; '
    's.WriteImage(s.ReadImage(sys.argv[1]), sys.argv[2])" {name} {stem}.nii.gz',
    (".mnc", ".mnc.gz", ".par", ".head", ".brik", ".brik.gz"): 'convert it: python -c "import sys, nibabel as n; '
    'n.save(n.as_closest_canonical(n.Nifti1Image.from_image(n.load(sys.argv[1]))), sys.argv[2])" {name} {stem}.nii.gz',
}


def is_image(path: Path) -> bool:
    """Whether the name is that of a file with a volume, in either case; of a pair .hdr and .img the .hdr is it, not both."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES) or name.startswith("."):
        return False
    if name.endswith((".img", ".img.gz")):
        start = path.name[: name.rindex(".img")]
        return not any(os.path.lexists(path.with_name(start + end)) for end in (".hdr", ".HDR", ".hdr.gz"))
    return True


def stem(path: Path) -> str:
    """The file name without its suffixes, such as .nii.gz."""
    name = path.name
    for suffix in sorted((*SUFFIXES, *sum(CONVERTED, ())), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def advice(path: Path) -> str | None:
    """How to convert a file whose name is that of a volume which is not read here; None for other names."""
    for suffixes, command in CONVERTED.items():
        if path.name.lower().endswith(suffixes) and not path.name.startswith("."):
            return command.format(name=path.name, stem=stem(path))
    return None


def parts(path: Path) -> tuple[Path, ...]:
    """All files that hold a volume: of a pair both, so that a change of either is seen."""
    return tuple(dict.fromkeys(nifti.files(path)))


def look(path: Path, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)) -> Look:
    """Reads the header of a file, and no voxels.

    Args:
      path: of a file of which `is_image` is true.
      voxel_size: (I, J, K) mm of .npy files, which do not say.

    Raises:
      DataError: it cannot be read.
    """
    if npy.is_npy(path):
        array = npy.mapped(path)
        affine = np.diag([*voxel_size, 1.0])
        return Look(array.shape, array.dtype, affine, None, "", "", (), path, False, 0)
    if how := advice(path):
        raise DataError(f"{path}: not a format that is read here; {how}")
    return mgh.look(path) if path.name.lower().endswith(mgh.SUFFIXES) else nifti.look(path)


def read(
    path: Path, nan: Nan = None, most_nan: float = MOST_NAN, voxel_size: Sequence[float] = (1.0, 1.0, 1.0)
) -> Volume:
    """Reads a scan, [I, J, K] float32, in the file's order, and its place.

    Args:
      path: of a file of which `is_image` is true.
      nan: a value for voxels that are NaN, "least" for the least of the others; None refuses them.
      most_nan: the share of such voxels above which the file is refused all the same.
      voxel_size: (I, J, K) mm of .npy files, which do not say; their axes are taken to run to the right, the front and the
        top.

    Raises:
      DataError: as `nifti.read`.
    """
    if not npy.is_npy(path):
        return nifti.checked(path, nifti.load(path, look(path)), nan, most_nan)
    volume = Volume(npy.read_unchecked(path), np.diag([*voxel_size, 1.0]))
    return nifti.checked(path, volume, nan, most_nan)
