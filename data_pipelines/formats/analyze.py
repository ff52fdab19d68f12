"""Headers of Analyze 7.5 and of SPM99 and SPM2: a .hdr with sizes, beside an .img with the values, and no directions."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.formats import headers
from data_pipelines.formats.headers import Look
from data_pipelines.notices import Kind, Notice

BYTES = 348
ORIENT = 252  # where Analyze keeps its one byte for the plane: 0 is axial; SPM's origin begins behind it


def is_header(start: bytes) -> bool:
    """Whether a file begins as such a header does: with its own length, in either byte order."""
    return len(start) >= BYTES and BYTES in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))


def read(path: Path, start: bytes, voxels: Path, gzipped: bool) -> Look:
    """Makes sense of an Analyze header, as nibabel does: SPM's scaling and origin are used where they are there.

    Args:
      path: of the .hdr.
      start: its first bytes, of which `is_header` is true.
      voxels: path of the .img.
      gzipped: whether that is gzipped.

    Raises:
      DataError: it is damaged, or has no sizes of voxels.
    """
    header = nib.Spm2AnalyzeHeader.from_fileobj(io.BytesIO(start[:BYTES]), check=False)
    edges = np.asarray(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(edges).all() and edges.all()):
        raise DataError(f"{path}: header gives voxel sizes {edges.tolist()}; set its pixdim to millimetres")
    notes = [Notice(Kind.ANALYZE)]
    if (edges < 0).any():
        header["pixdim"][1:4] = np.abs(edges)
        notes.append(Notice(Kind.NEGATIVE))
    if 1 <= start[ORIENT] <= 5:
        notes.append(Notice(Kind.ANALYZE_PLANE, f"orient {start[ORIENT]}"))
    if path.with_suffix(".mat").exists():  # SPM's, which has the directions
        affine, notes = np.asarray(nib.load(path).affine, np.float64), notes[1:]
    else:
        affine = np.asarray(header.get_best_affine(), np.float64)
    headers.check_spacing(path, affine, "as its pixdim says; set that to millimetres")
    slope, intercept = header.get_slope_inter()
    return Look(
        shape=tuple(int(n) for n in header.get_data_shape()),
        dtype=header.get_data_dtype(),
        affine=affine,
        scaling=None if slope is None else (float(slope), float(intercept)),
        intent="",
        description=headers.text(header["descrip"]),
        notices=(*notes, *headers.sheared(affine)),
        voxels=voxels,
        gzipped=gzipped,
        offset=max(0, int(header.get_data_offset())),
    )
