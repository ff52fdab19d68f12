"""A DICOM series of slices, as CT and MR scanners write it, to a volume in Hounsfield units or stored intensities."""

import io
from pathlib import Path

import numpy as np
import pydicom

from data_pipelines.claims import check_shape
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import Volume, check_values

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x runs to the left, its y to the back
GAP_TOLERANCE = 0.1  # of the slice distance; scanners round positions


def modality(folder: Path) -> str | None:
    """Reads "CT", "MR", "DX" ... of the first image in a folder; None if no file in it is an image."""
    for path in _files(folder):
        try:
            content = io.BytesIO(path.read_bytes())
            header = pydicom.dcmread(content, stop_before_pixels=True, specific_tags=["Modality", "Rows"])
            if "Rows" in header:
                return str(header.get("Modality"))
        except Exception:  # as in `read_series`, which says so
            continue
    return None


def read_series(folder: str | Path) -> Volume:
    """Stacks the slices of a folder in the order of their positions.

    Args:
      folder: of the .dcm files of one series; the files are only read.

    Returns:
      [columns, rows, slices] float32, rescale slope and intercept applied; the affine is that of the DICOM geometry
      (PS3.3, C.7.6.2.1.1), turned from DICOM's LPS to RAS.

    Raises:
      DataError: a file cannot be read, or the slices are not one regular stack.
    """
    folder = Path(folder)
    try:
        return _stacked(folder)
    except DataError:
        raise
    except Exception as error:  # a damaged header can make pydicom raise nearly anything
        raise DataError(f"{folder}: not a readable DICOM series ({_reason(error)}); replace or remove it") from error


def _stacked(folder: Path) -> Volume:
    slices = [image for path in _files(folder) if (image := _read(path)) is not None]
    if len(slices) < 2:
        raise DataError(f"{folder}: {len(slices)} DICOM slices, a volume needs two at least; remove the folder")
    for key in ("SeriesInstanceUID", "Rows", "Columns", "ImageOrientationPatient", "PixelSpacing"):
        values = {str(image.get(key)) for image in slices}
        if len(values) > 1 or values == {"None"}:
            found = (
                "is missing"
                if values == {"None"}
                else f"has {len(values)} values, such as {' and '.join(sorted(values)[:2])}"
            )
            raise DataError(f"{folder}: {key} {found}; keep the slices of one series in a folder of their own")

    check_shape(folder, (slices[0].Columns, slices[0].Rows, len(slices)))

    across, down = np.asarray(slices[0].ImageOrientationPatient, np.float64).reshape(2, 3)
    normal = np.cross(across, down)
    positions = np.asarray([image.ImagePositionPatient for image in slices], np.float64)
    order = np.argsort(positions @ normal)
    positions = positions[order]
    row_distance, column_distance = (float(v) for v in slices[0].PixelSpacing)
    _check_regular(folder, positions, normal, min(row_distance, column_distance))

    array = np.stack([_intensities(folder, slices[i]) for i in order], axis=-1)
    check_values(folder, array)
    affine = np.eye(4)
    affine[:3, 0] = across * column_distance
    affine[:3, 1] = down * row_distance
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return Volume(array, LPS_TO_RAS @ affine)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".dcm")


def _read(path: Path) -> pydicom.Dataset | None:
    """A slice, or None for a DICOM file that is no image (a structured report, say)."""
    try:
        # From memory: where a length is wrong, no more is asked for than there is.
        image = pydicom.dcmread(io.BytesIO(path.read_bytes()))
    except Exception as error:
        raise DataError(f"{path}: not a readable DICOM file ({_reason(error)}); replace or remove it") from error
    if "PixelData" not in image:
        return None
    if int(image.get("NumberOfFrames", 1)) > 1:
        raise DataError(f"{path}: a multi-frame image; convert it to single slices or to NIfTI")
    if "ImagePositionPatient" not in image:
        raise DataError(f"{path}: ImagePositionPatient is missing, so the slice has no place; remove it")
    return image


def _intensities(folder: Path, image: pydicom.Dataset) -> np.ndarray:
    """[columns, rows] float32: stored values times slope plus intercept (PS3.3, C.11.1.1.2)."""
    try:
        stored = image.pixel_array
    except (ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"{folder}: pixels of a slice cannot be decoded ({_reason(error)}); convert it to NIfTI"
        ) from error
    slope, intercept = float(image.get("RescaleSlope", 1)), float(image.get("RescaleIntercept", 0))
    return stored.T.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _check_regular(folder: Path, positions: np.ndarray, normal: np.ndarray, pixel: float) -> None:
    """Raises unless sorted slice positions [n, 3] stand one above the other at equal distances."""
    gaps = np.diff(positions @ normal)
    distance = float(np.median(gaps))
    if gaps.min() < 1e-3:
        twice = int(np.count_nonzero(gaps < 1e-3))
        raise DataError(f"{folder}: {twice} slices lie where another one does; keep one slice a position")
    if (np.abs(gaps - distance) > GAP_TOLERANCE * distance).any():
        raise DataError(
            f"{folder}: slices are {distance:g} mm apart but for gaps of {gaps.min():g} to {gaps.max():g} mm; "
            "some are missing: fetch the series again or remove it"
        )
    drift = positions - positions[0]
    drift = np.linalg.norm(drift - np.outer(drift @ normal, normal), axis=1).max()
    if drift > pixel:
        raise DataError(
            f"{folder}: slices shift sideways by {drift:.1f} mm (a tilted gantry); resample it to NIfTI first"
        )


def _reason(error: Exception) -> str:
    """Puts what an error says into one short line of printable characters: it may quote the file."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)
