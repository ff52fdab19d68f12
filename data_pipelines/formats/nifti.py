"""NIfTI files in and out: an array in the order it is stored, and the affine that places it in the world."""

import dataclasses
import errno
import math
from pathlib import Path

import nibabel as nib
import numpy as np

from data_pipelines.aside import written_aside
from data_pipelines.claims import check_bytes, check_shape
from data_pipelines.errors import DataError

MILLIMETRES = {"meter": 1e3, "mm": 1.0, "micron": 1e-3, "unknown": 1.0}
SUFFIXES = (".nii", ".nii.gz")
HEADER_BYTES = 352  # before the voxels of the files that `write` makes; little-endian, the first index runs fastest


@dataclasses.dataclass(frozen=True)
class Volume:
    """A scan in physical space.

    Attributes:
      array: [I, J, K] float32, in the file's voxel order.
      affine: [4, 4] float64, voxel indices to RAS+ world coordinates in millimetres.
      description: free text of up to 79 characters, kept in the NIfTI header.
    """

    array: np.ndarray
    affine: np.ndarray
    description: str = ""

    @property
    def spacing(self) -> np.ndarray:
        """[3] voxel edge lengths in millimetres."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)


def is_nifti(path: Path) -> bool:
    """Whether the name is that of a NIfTI file; hidden files, temporary ones among them, are not."""
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".")


def stem(path: Path) -> str:
    """The file name without .nii or .nii.gz."""
    return path.name.removesuffix(".gz").removesuffix(".nii")


def read(path: str | Path) -> Volume:
    """Reads a scan, its scaling (scl_slope, scl_inter) applied.

    Args:
      path: a .nii or .nii.gz file of one 3D volume; trailing axes of length one are dropped.

    Raises:
      DataError: not a readable NIfTI file, shorter than its header claims, not one 3D volume or one of more than 1024^3
        voxels, values not finite or all the same, no usable spacing.
    """
    volume = read_unchecked(path)
    check_values(Path(path), volume.array)
    return volume


def read_unchecked(path: str | Path) -> Volume:
    """Reads a volume as `read` does, whatever its values: a model may draw NaN, or the same number everywhere.

    Raises:
      DataError: not a readable NIfTI file, not one 3D volume, no usable spacing.
    """
    path = Path(path)
    try:
        header = _raw_header(path)
        image = nib.load(path)
        if image.get_data_dtype().kind not in "iufb":
            raise DataError(f"{path}: holds {image.get_data_dtype()} values; convert it to a scalar NIfTI volume")
        shape = _spatial_shape(path, image.shape)
        check_shape(path, shape)
        check_bytes(path, int(header["vox_offset"]) + math.prod(shape) * image.get_data_dtype().itemsize)
        affine = _affine(path, image, header)
        array = np.array(image.dataobj, dtype=np.float32).reshape(shape)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError:
        raise
    except Exception as error:  # a damaged header can make nibabel raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable NIfTI file ({reason}); replace or remove it") from error
    return Volume(array, affine, _text(header["descrip"]))


def check_values(path: Path, array: np.ndarray) -> None:
    """Raises DataError unless all values are finite and at least two differ."""
    # The sum is finite only if every value is; float64, so that it cannot overflow.
    if not np.isfinite(array.sum(dtype=np.float64)):
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise DataError(f"{path}: {bad} of {array.size} voxels are NaN or infinite; repair or remove the file")
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
    return np.asarray(image.affine, np.float64), _text(image.header["descrip"])


def memory_map(path: Path) -> np.ndarray:
    """The voxels of an uncompressed float32 file that `write` made: [I, J, K], read-only, loaded page by page."""
    return np.asanyarray(nib.load(path, mmap="r").dataobj)


def _raw_header(path: Path) -> nib.Nifti1Header:
    """The header as it stands in the file: nib.load silently replaces a zero pixdim by 1."""
    with nib.openers.ImageOpener(path) as file:
        start = file.read(4)
        file.seek(0)
        is_nifti2 = 540 in (int.from_bytes(start, "little"), int.from_bytes(start, "big"))
        return (nib.Nifti2Header if is_nifti2 else nib.Nifti1Header).from_fileobj(file, check=False)


def _spatial_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) == 3 and min(shape) > 1:
        return shape
    if len(shape) > 3:
        raise DataError(f"{path}: {len(shape)}D of shape {shape}, one 3D volume is needed; split the series into files")
    raise DataError(f"{path}: shape {shape} is not a 3D volume; stack the slices into one file or remove it")


def _affine(path: Path, image: nib.Nifti1Image, header: nib.Nifti1Header) -> np.ndarray:
    """The best affine of the header, in millimetres."""
    pixdim = np.asarray(header["pixdim"][1:4], np.float64)
    affine = np.asarray(image.affine, np.float64)
    if not (np.isfinite(pixdim).all() and (pixdim != 0).all()):
        raise DataError(f"{path}: header gives voxel sizes {pixdim.tolist()}; set its pixdim to millimetres")
    lost = not np.isfinite(affine).all() or np.isnan(nib.orientations.io_orientation(affine)).any()
    if lost or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise DataError(f"{path}: header's affine is singular or not finite; set a valid sform or qform")
    unit = MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    return np.diag([unit, unit, unit, 1.0]) @ affine


def _text(field: np.ndarray) -> str:
    return bytes(field.item()).rstrip(b"\0").decode("latin-1").strip()
