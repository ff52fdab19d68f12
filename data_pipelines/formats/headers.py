"""Reads what NIfTI headers say of a volume: its size, its values, and its place by the rules of the field.

Where the voxels lie is written in a header up to three times, and headers are half filled in many ways. The rule here is that of
nibabel, FSL and, where both codes are "scanner", ITK:

1. The sform, where its code is above 0 and its rows are an affine.
2. Else the qform, where its code is above 0 and it is one: quaternion, offsets and pixdim finite, pixdim not 0. A quaternion
   longer than 1, as rounding makes it, is scaled to 1 (as NIfTI's own library does); qfac 0 counts as 1.
3. Else, where neither is set, the voxel sizes alone: axes to the left, the front and the top, 0 at the centre, as nibabel,
   FSL and SPM have it. (ITK has the second axis run to the back then, from the first voxel.)

Rows of zeros are an sform that is not set. One that is damaged otherwise, with no qform to stand in for it, is refused, because
the directions were known once. What is doubtful is noted (notices.py).
"""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.formats import affines
from data_pipelines.notices import Kind, Notice

UNITS = {0: ("none", 1.0), 1: ("metre", 1e3), 2: ("mm", 1.0), 3: ("micron", 1e-3)}  # xyzt_units & 7, in millimetres
SPACINGS = (0.01, 100.0)  # mm; beyond these a unit is wrong, not a scan
PIXDIM_TOLERANCE = 0.01  # of an edge
APART = 0.5  # of the shortest edge, where sform and qform begin to disagree: near 180 degrees float32 is that coarse
HALF_TURN = 1e-7  # what is left to 1 of a quaternion's square, below which NIfTI's own library takes it for half a turn
LENGTH_TOLERANCE = 1e-3  # of a quaternion, which rounding stays well below
BYTES_1, BYTES_2 = 348, 540  # of the headers of NIfTI-1 and NIfTI-2
MAGICS_1, MAGICS_2 = (b"n+1\0", b"ni1\0"), (b"n+2\0", b"ni2\0")
CIFTI = range(3000, 3100)  # intent codes


@dataclasses.dataclass(frozen=True)
class Look:
    """Holds what a header says of a file, before any voxel is read.

    Attributes:
      shape: all its lengths, as stored.
      dtype: of the values as stored; with fields for colours.
      affine: [4, 4] float64, voxel indices to RAS+ world coordinates in millimetres.
      scaling: (slope, intercept) to apply to stored values; None if they are the values.
      intent: what the header calls the values, such as "label" or "t test"; empty if nothing.
      description: its free text.
      notices: what is doubtful in it.
      voxels: the file that the values are in.
      gzipped: whether that file is gzipped.
      offset: bytes before the first value there, inflated.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    scaling: tuple[float, float] | None
    intent: str
    description: str
    notices: tuple[Notice, ...]
    voxels: Path
    gzipped: bool
    offset: int

    @property
    def spacing(self) -> np.ndarray:
        """[3] voxel edge lengths in millimetres."""
        return affines.spacing(self.affine)

    @property
    def orientation(self) -> str:
        """Where the axes run, nearly, such as "RAS"."""
        return affines.orientation(self.affine)

    @property
    def scaled(self) -> bool:
        """Whether stored values are multiplied or shifted."""
        return self.scaling not in (None, (1.0, 0.0))


def version(start: bytes) -> int:
    """1 or 2 for the beginning of a NIfTI header, 0 for anything else."""
    if start[344:348] in MAGICS_1:
        return 1
    return 2 if start[4:8] in MAGICS_2 else 0


def is_single(start: bytes) -> bool:
    """Whether the values lie in the file of the header, not in an .img beside it."""
    return start[344:348] == MAGICS_1[0] or start[4:8] == MAGICS_2[0]


def read(path: Path, start: bytes, gzipped: bool) -> Look:
    """Makes sense of a NIfTI header.

    Args:
      path: of the file, for messages.
      start: its first bytes, of which `version` is 1 or 2.
      gzipped: whether the file is; of a pair, the file with the values is to be asked anew.

    Raises:
      DataError: it is damaged, places the voxels nowhere, or its unit cannot be meant.
    """
    nifti1 = version(start) == 1
    fields = _fields(path, start, nifti1)
    if int(fields["intent_code"]) in CIFTI:
        raise DataError(f"{path}: CIFTI, values on a surface; a volume is needed, remove it")
    shape = _shape(path, fields["dim"])
    dtype = _dtype(path, int(fields["datatype"]), fields.dtype["dim"])
    notes: list[Notice] = []
    affine = placed(path, fields, shape, notes)
    affine = in_millimetres(path, affine, int(fields["xyzt_units"]), notes)
    notes += sheared(affine)
    return Look(
        shape=shape,
        dtype=dtype,
        affine=affine,
        scaling=_scaling(fields, notes),
        intent=_intent(int(fields["intent_code"])),
        description=text(fields["descrip"]),
        notices=tuple(notes),
        voxels=path,
        gzipped=gzipped,
        offset=_offset(path, float(fields["vox_offset"]), is_single(start), BYTES_1 if nifti1 else BYTES_2),
    )


def placed(path: Path, fields: np.void, shape: tuple[int, ...], notes: list[Notice]) -> np.ndarray:
    """The affine [4, 4] by the rule above, in the header's unit; `notes` grows by what is doubtful."""
    pixdim = np.asarray(fields["pixdim"][1:4], np.float64)
    sform = np.eye(4)
    sform[:3] = [fields[row] for row in ("srow_x", "srow_y", "srow_z")]
    claimed = int(fields["sform_code"]) > 0
    has_sform = claimed and affines.usable(sform)
    qform, long = from_quaternion(fields)
    has_qform = int(fields["qform_code"]) > 0 and affines.usable(qform)
    if has_sform:
        if has_qform:  # which cannot hold shear
            if _apart(affines.orthonormal(sform), qform, shape) > APART * affines.spacing(sform).min():
                notes.append(Notice(Kind.DISAGREE))
        elif not np.allclose(np.abs(pixdim), affines.spacing(sform), rtol=PIXDIM_TOLERANCE, atol=0):
            notes.append(Notice(Kind.PIXDIM))
        return sform
    if (pixdim < 0).any():
        notes.append(Notice(Kind.NEGATIVE))
    if has_qform:
        if claimed:
            notes.append(Notice(Kind.SFORM_UNUSABLE))
        if long:
            notes.append(Notice(Kind.QUATERNION))
        return qform
    if not (np.isfinite(pixdim).all() and pixdim.all()):
        raise DataError(f"{path}: header gives voxel sizes {pixdim.tolist()}; set its pixdim to millimetres")
    if int(fields["qform_code"]) > 0 or (claimed and sform[:3, :3].any()):
        raise DataError(f"{path}: header's affine is singular or not finite; set a valid sform or qform")
    notes.append(Notice(Kind.UNPLACED))
    return by_sizes(pixdim, shape)


def from_quaternion(fields: np.void) -> tuple[np.ndarray, bool]:
    """The qform [4, 4], NaN where the header does not give one, and whether its quaternion is longer than rounding makes it."""
    edges = np.abs(np.asarray(fields["pixdim"][1:4], np.float64))
    offsets = np.array([fields[f"qoffset_{axis}"] for axis in "xyz"], np.float64)
    quaternion = np.array([0, *(fields[f"quatern_{name}"] for name in "bcd")], np.float64)
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite([*edges, *offsets, length]).all():
        return np.full((4, 4), np.nan), False
    if 1 - length**2 >= HALF_TURN:
        quaternion[0] = np.sqrt(1 - length**2)
    edges[2] *= -1 if float(fields["pixdim"][0]) < 0 else 1
    affine = np.eye(4)
    affine[:3, :3] = nib.quaternions.quat2mat(quaternion) * edges  # which scales it to length 1
    affine[:3, 3] = offsets
    return affine, length > 1 + LENGTH_TOLERANCE


def by_sizes(pixdim: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Axes to the left, the front and the top, with 0 at the centre: of files that know the sizes of voxels only."""
    return nib.volumeutils.shape_zoom_affine((*shape, 1, 1)[:3], np.abs(pixdim), x_flip=True)


def in_millimetres(path: Path, affine: np.ndarray, code: int, notes: list[Notice]) -> np.ndarray:
    """An affine in the unit of `code`, the header's xyzt_units, turned to millimetres.

    Raises:
      DataError: voxels are then smaller or larger than `SPACINGS`, so the unit is not the one that was meant.
    """
    if code & 7 not in UNITS:
        notes.append(Notice(Kind.UNIT, f"code {code}"))
    name, factor = UNITS.get(code & 7, UNITS[0])
    affine = np.diag([factor, factor, factor, 1.0]) @ affine
    check_spacing(
        path, affine, f"with the unit {name} (xyzt_units {code}); set xyzt_units to 2 (mm) and pixdim to millimetres"
    )
    return affine


def check_spacing(path: Path, affine: np.ndarray, how: str) -> None:
    """Raises DataError for voxels that no scanner makes; `how` says why that may be and what to do."""
    edges = affines.spacing(affine)
    low, high = SPACINGS
    if edges.min() < low * (1 - 1e-6) or edges.max() > high * (1 + 1e-6):
        sizes = " x ".join(f"{edge:.4g}" for edge in edges)
        raise DataError(f"{path}: voxels of {sizes} mm, not {low:g} to {high:g}, {how}, or remove it")


def sheared(affine: np.ndarray) -> list[Notice]:
    """A notice where axes are not at right angles."""
    cosine = affines.shear(affine)
    return [Notice(Kind.SHEARED, f"a cosine of {cosine:.3f}")] if cosine > affines.SHEARED else []


def text(field: np.ndarray) -> str:
    """A text field, its padding removed."""
    return bytes(field.item()).split(b"\0")[0].decode("latin-1").strip()


def _fields(path: Path, start: bytes, nifti1: bool) -> np.void:
    """The fields, in whichever byte order makes dim[0] a number of axes."""
    dtype, size = (nib.nifti1.header_dtype, BYTES_1) if nifti1 else (nib.nifti2.header_dtype, BYTES_2)
    if len(start) < size:
        raise DataError(f"{path}: not a readable NIfTI file ({len(start)} bytes are no header); replace or remove it")
    for order in "<>":
        fields = np.frombuffer(start, dtype.newbyteorder(order), count=1)[0]
        if 1 <= fields["dim"][0] <= 7:
            return fields
    raise DataError(f"{path}: not a readable NIfTI file (dim[0] is not 1 to 7); replace or remove it")


def _shape(path: Path, dim: np.ndarray) -> tuple[int, ...]:
    lengths = [int(n) for n in dim[1 : int(dim[0]) + 1]]
    # Half-filled headers say 0 of axes beyond the third; NIfTI's own library takes that for 1.
    lengths = [1 if n == 0 and axis > 2 else n for axis, n in enumerate(lengths)]
    if min(lengths) < 1:
        raise DataError(f"{path}: not a readable NIfTI file (dim is {dim.tolist()}); replace or remove it")
    return tuple(lengths)


def _dtype(path: Path, code: int, like: np.dtype) -> np.dtype:
    codes = nib.nifti1.data_type_codes
    if code not in codes.dtype or codes.dtype[code].itemsize == 0:
        raise DataError(f"{path}: not a readable NIfTI file (datatype {code} is none of numbers); replace or remove it")
    return codes.dtype[code].newbyteorder(like.base.byteorder)


def _scaling(fields: np.void, notes: list[Notice]) -> tuple[float, float] | None:
    """Slope and intercept. A slope of 0 means none, and so does NaN, which nibabel writes for it."""
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return None
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        notes.append(Notice(Kind.SCALING, f"{slope:g} and {intercept:g}"))
        return None
    return slope, intercept


def _intent(code: int) -> str:
    if code == 0:
        return ""
    codes = nib.nifti1.intent_codes
    return codes.label[code] if code in codes.code else f"code {code}"


def _offset(path: Path, offset: float, single: bool, header_bytes: int) -> int:
    least = header_bytes if single else 0
    if not least <= offset < 2**62:
        raise DataError(
            f"{path}: not a readable NIfTI file (vox_offset is {offset:g}, its header has {least} bytes); replace or remove it"
        )
    return int(offset)


def _apart(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """How far the place of a corner of the volume is from its place by the other affine, at most."""
    lengths = (np.array([*shape[:3], 1, 1])[:3] - 1).astype(np.float64)
    corners = np.c_[np.array([*np.ndindex(2, 2, 2)]) * lengths, np.ones(8)]
    return float(np.linalg.norm(corners @ (affine - other)[:3].T, axis=1).max())
