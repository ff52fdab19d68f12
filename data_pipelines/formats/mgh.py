"""Headers of FreeSurfer's .mgh and .mgz files."""

from pathlib import Path

import numpy as np
from nibabel.freesurfer import mghformat

from data_pipelines.errors import DataError
from data_pipelines.formats import affines, headers, sniff
from data_pipelines.formats.headers import Look
from data_pipelines.notices import Kind, Notice

SUFFIXES = (".mgh", ".mgz", ".mgh.gz")
OFFSET = 284  # bytes before the values
PLACED = 28  # where the header says, in two bytes, whether it knows directions


def is_header(start: bytes) -> bool:
    """Whether a file begins as such a file does: version 1, and a type of values that FreeSurfer has."""
    known = mghformat.data_type_codes.code
    return len(start) >= OFFSET and start[:4] == b"\0\0\0\1" and int.from_bytes(start[20:24], "big") in known


def look(path: Path) -> Look:
    """Reads the header, and no voxels.

    Raises:
      DataError: no such file, it is damaged or places the voxels nowhere.
    """
    start, gzipped = sniff.first_bytes(path)
    if not is_header(start):
        raise DataError(f"{path}: not a readable MGH file (its header is another); replace or remove it")
    header = mghformat.MGHHeader(start[: mghformat.header_dtype.itemsize], check=False)
    notes = []
    if int.from_bytes(start[PLACED : PLACED + 2], "big", signed=True) <= 0:
        notes.append(Notice(Kind.MGH_UNPLACED))
    if gzipped != path.name.lower().endswith((".mgz", ".gz")):
        notes.append(Notice(Kind.SUFFIX))
    lengths = [int(n) for n in header["dims"]]
    if min(lengths) < 1:
        raise DataError(f"{path}: not a readable MGH file (its lengths are {lengths}); replace or remove it")
    with np.errstate(over="ignore", invalid="ignore"):  # of a damaged header, which is refused next
        affine = np.asarray(header.get_affine(), np.float64)
    if not affines.usable(affine):
        raise DataError(f"{path}: header's affine is singular or not finite; convert it anew with mri_convert")
    headers.check_spacing(path, affine, "as its header says; convert it anew with mri_convert")
    return Look(
        shape=tuple(lengths),
        dtype=header.get_data_dtype(),
        affine=affine,
        scaling=None,
        intent="",
        description="",
        notices=(*notes, *headers.sheared(affine)),
        voxels=path,
        gzipped=gzipped,
        offset=OFFSET,
    )
