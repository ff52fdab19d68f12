"""NIfTI files in and out: an array in the order it is stored, and the affine that places it in the world."""

import dataclasses
import errno
import math
import os
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from data_pipelines.aside import written_aside
from data_pipelines.claims import check_bytes, check_shape
from data_pipelines.errors import DataError
from data_pipelines.formats import affines, analyze, headers, sniff, voxels
from data_pipelines.formats.headers import Look
from data_pipelines.notices import Kind, Notice

SUFFIXES = (".nii", ".nii.gz")
PAIR = {".hdr": ".img", ".img": ".hdr"}
HEADER_BYTES = 352  # before the voxels of the files that `write` makes; little-endian, the first index runs fastest
MOST_NAN = 0.99  # of a volume, beyond which little is left to learn from

Nan = float | Literal["least"] | None


@dataclasses.dataclass(frozen=True)
class Volume:
    """A scan in physical space.

    Attributes:
      array: [I, J, K] float32, in the file's voxel order.
      affine: [4, 4] float64, voxel indices to RAS+ world coordinates in millimetres.
      description: free text of up to 79 characters, kept in the NIfTI header.
      notices: what is doubtful in the file it was read from.
    """

    array: np.ndarray
    affine: np.ndarray
    description: str = ""
    notices: tuple[Notice, ...] = ()

    @property
    def spacing(self) -> np.ndarray:
        """[3] voxel edge lengths in millimetres; where axes are sheared, along the slanted edge."""
        return affines.spacing(self.affine)


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file, in either case; hidden files, temporary ones among them, are not."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    name = path.name
    for suffix in (".gz", ".nii"):
        if name.lower().endswith(suffix):
            name = name[: -len(suffix)]
    return name


def look(path: str | Path) -> Look:
    """Reads the header of a NIfTI file, or of a pair .hdr and .img (Analyze as well), and no voxels: a few kB.

    Args:
      path: of either file of a pair. What a file is, its content says, not its suffix.

    Raises:
      DataError: no such file, no such header, or one that is damaged or places the voxels nowhere; or an uncompressed file is
        shorter than its header claims.
    """
    path = Path(path)
    try:
        return _look(path)
    except DataError:
        raise
    except Exception as error:  # a damaged header can make numpy and nibabel raise nearly anything
        raise DataError(f"{path}: not a readable NIfTI file ({sniff.reason(error)}); replace or remove it") from error


def read(path: str | Path, nan: Nan = None, most_nan: float = MOST_NAN) -> Volume:
    """Reads a scan, its scaling (scl_slope, scl_inter) applied.

    Args:
      path: a .nii or .nii.gz file of one 3D volume, or either file of a pair .hdr and .img; trailing axes of length one are
        dropped.
      nan: a value for voxels that are NaN, "least" for the least of the others; None refuses them.
      most_nan: the share of such voxels above which the file is refused all the same.

    Raises:
      DataError: as `look`; the voxels are damaged, not one 3D volume or one of more than 1024^3 voxels; values are not finite
        or all the same.
    """
    return checked(Path(path), read_unchecked(path), nan, most_nan)


def read_unchecked(path: str | Path) -> Volume:
    """Reads a volume as `read` does, whatever its values: a model may draw NaN, or the same number everywhere.

    Raises:
      DataError: as `read`, but not for values.
    """
    path = Path(path)
    return load(path, look(path))


def load(path: Path, seen: Look) -> Volume:
    """The volume that a header was found to describe; of any format whose header is read to a `Look`."""
    return Volume(voxels.load(path, seen), seen.affine, seen.description, seen.notices)


def checked(path: Path, volume: Volume, nan: Nan = None, most_nan: float = MOST_NAN) -> Volume:
    """A volume that can be learned from: NaN replaced if that is asked for, all values finite, some of them different.

    Raises:
      DataError: it cannot.
    """
    if nan is not None and (missing := np.isnan(volume.array)).any():
        share = float(missing.mean())
        if share > most_nan or missing.all():
            raise DataError(
                f"{path}: {share:.1%} of the voxels are NaN, at most {most_nan:.0%} can be background; remove it"
            )
        value = volume.array[~missing].min() if nan == "least" else nan
        note = Notice(Kind.NAN, f"{share:.1%} of the voxels, which become {value:g}")
        array = np.where(missing, np.float32(value), volume.array)
        volume = dataclasses.replace(volume, array=array, notices=(*volume.notices, note))
    check_values(path, volume.array)
    return volume


def check_values(path: Path, array: np.ndarray) -> None:
    """Raises DataError unless all values are finite and at least two differ."""
    # The sum is finite only if every value is; float64, so that it cannot overflow.
    if not np.isfinite(array.sum(dtype=np.float64)):
        bad = int(np.count_nonzero(~np.isfinite(array)))
        what = "repair or remove the file"
        if not np.isinf(array).any():
            what = "if NaN is the background, set data.nan_background=True; else repair or remove the file"
        raise DataError(f"{path}: {bad} of {array.size} voxels are NaN or infinite; {what}")
    if array.min() == array.max():
        raise DataError(f"{path}: every voxel is {array.flat[0]:g}; nothing to learn from it, remove it")


def write(
    path: str | Path,
    volume: Volume,
    dtype: type[np.floating | np.integer] = np.float32,
    scaling: tuple[float, float] | None = None,
) -> None:
    """Writes a volume beside its final name and renames it, so that no reader ever meets half a file.

    Args:
      path: ends in .nii or .nii.gz; an existing file of that name is replaced.
      volume: float values; an integer `dtype` stores them with scl_slope and scl_inter, so that they come back to
        within half a step of (max - min) / 2**bits.
      dtype: the stored type, float32 or an integer type. Integer values in its range are stored as they are.
      scaling: (slope, intercept), what the file says that stored integers mean; by default themselves.

    Raises:
      DataError: the disk is full, read-only or the folder may not be written to.
    """
    path = Path(path)
    array = volume.array
    exact = np.issubdtype(array.dtype, np.integer)
    image = nib.Nifti1Image(array.astype(dtype) if exact or np.issubdtype(dtype, np.floating) else array, None)
    image.header.set_data_dtype(dtype)
    if scaling:
        image.header.set_slope_inter(*scaling)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = volume.description[:79]
    # Both forms say "scanner": readers that know only one of them place the volume alike.
    image.set_sform(volume.affine, code="scanner")
    image.set_qform(volume.affine, code="scanner")
    try:
        with written_aside(path) as aside:
            nib.save(image, aside)
    except OSError as error:
        raise cannot_write(path.parent, error) from error


def cannot_write(folder: Path, error: OSError) -> DataError:
    """The one-line error for a folder that takes no more files."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DataError(f"{folder}: no space left on the disk; free some or choose another folder")
    return DataError(f"{folder}: cannot be written to ({error.strerror or error}); choose another folder")


def read_header(path: Path) -> tuple[np.ndarray, str]:
    """The affine [4, 4] and the description of a file that `write` made, without its voxels."""
    image = nib.load(path)
    return np.asarray(image.affine, np.float64), headers.text(image.header["descrip"])


def memory_map(path: Path) -> np.ndarray:
    """The voxels of an uncompressed float32 file that `write` made: [I, J, K], read-only, loaded page by page."""
    return np.asanyarray(nib.load(path, mmap="r").dataobj)


def _look(path: Path) -> Look:
    header, values = files(path)
    start, gzipped = sniff.first_bytes(header)
    if headers.version(start):
        seen = headers.read(header, start, gzipped)
        if not headers.is_single(start):
            if values == header:
                raise DataError(
                    f"{path}: the header of a pair, and the voxels, NAME.img beside NAME.hdr, are missing; fetch them"
                )
            seen = dataclasses.replace(seen, voxels=values, gzipped=sniff.is_gzipped(values))
    elif values != header and analyze.is_header(start):
        seen = analyze.read(header, start, values, sniff.is_gzipped(values))
    elif ".hdr" in header.name.lower() and analyze.is_header(start):
        raise DataError(f"{path}: its voxels are missing, {path.stem}.img; fetch them or remove it")
    else:
        raise DataError(f"{path}: not a readable NIfTI file (its header is another); replace or remove it")
    if seen.gzipped != seen.voxels.name.lower().endswith(".gz"):
        seen = dataclasses.replace(seen, notices=(*seen.notices, Notice(Kind.SUFFIX)))
    check_shape(path, seen.shape[:3])
    if not seen.gzipped:
        check_bytes(seen.voxels, seen.offset + math.prod(seen.shape) * seen.dtype.itemsize, gzipped=False)
    return seen


def files(path: Path) -> tuple[Path, Path]:
    """The file with the header and the one with the values, the same unless a pair lies there."""
    suffix = next((s for s in PAIR if path.name.lower().removesuffix(".gz").endswith(s)), None)
    if suffix is None:
        return path, path
    start = path.name[: path.name.lower().rindex(suffix)]
    other = PAIR[suffix]
    names = [f"{start}{end}{gz}" for end in (other, other.upper()) for gz in ("", ".gz")]
    # A link to what is not fetched is there too: `sniff` names the command.
    there = [beside for name in names if os.path.lexists(beside := path.with_name(name))]
    beside = there[0] if there else path
    return (path, beside) if suffix == ".hdr" else (beside, path)
