"""One DICOM series to a volume: Hounsfield units of a CT, and what its headers make of stored values of all else."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.claims import check_shape
from data_pipelines.errors import DataError
from data_pipelines.formats import dicom_pixels
from data_pipelines.formats.dicom_headers import NotReadable, Slice, read_header, reason_of, rescaling, slices_of
from data_pipelines.formats.dicom_padding import AIR, padding_range, without_padding
from data_pipelines.formats.dicom_series import Series, find_series
from data_pipelines.formats.dicom_stack import places, stack
from data_pipelines.formats.dicom_tilt import straightened
from data_pipelines.formats.nifti import Volume, check_values


def modality(folder: Path) -> str | None:
    """Reads "CT", "MR", "DX" ... of the first image in a folder; None if no file in it is an image."""
    for path in _files(folder):
        try:
            header = read_header(path)
        except (NotReadable, OSError):  # as in `read_series`, which says so
            continue
        if header and header.slices:
            return header.modality
    return None


def read_series(folder: str | Path) -> Volume:
    """Stacks the slices of a folder in the order of their positions, as LIDC-IDRI's published preprocessing has them.

    Args:
      folder: of the files of one series, which are only read. What else lies there (a scout, slices twice) is passed over,
        and said on stderr.

    Returns:
      [columns, rows, slices] float32, rescale slope and intercept applied, padding left as it is; the affine is that of
      the DICOM geometry (PS3.3, C.7.6.2.1.1), turned from DICOM's LPS to RAS.

    Raises:
      DataError: a file cannot be read, the slices are not one regular stack, or several series are.
    """
    folder = Path(folder)
    images = [series for series in find_series(folder, _files(folder), fewest=2) if series.slices or series.faulty]
    for series in images:
        if not series.slices:
            raise DataError(f"{series.files[0]}: {series.reason}; replace or remove it")
    usable = [series for series in images if series.status == "use"]
    reasons = [series.reason for series in images if series.reason]
    if len(usable) > 1:
        raise DataError(f"{folder}: SeriesInstanceUID has {len(usable)} values; keep a series in a folder of its own")
    if not usable:
        found = "; ".join(dict.fromkeys(reasons)) or "0 DICOM slices"
        raise DataError(f"{folder}: {found}; a volume is a regular stack of slices: fetch it again or remove it")
    if usable[0].tilted:
        raise DataError(f"{folder}: slices shift sideways (a tilted gantry); resample it to NIfTI first")
    if reasons:
        print(f"{folder}: {'; '.join(reasons)}", file=sys.stderr)
    return read_volume(usable[0], None, as_published=True)[0]


def read_volume(series: Series, scratch: Path | None, as_published: bool = False) -> tuple[Volume, tuple[str, ...]]:
    """Decodes a series.

    Args:
      series: a regular stack, as `find_series` gives it.
      scratch: a folder for copies on their way through dcm2niix, where pydicom cannot decode; None to do without it.
      as_published: leave padding as it is, and refuse what would have to be changed.

    Returns:
      [columns, rows, slices] float32, and what is to be said of it, in words.

    Raises:
      DataError: a file cannot be read or decoded, or the slices are not what their headers said.
    """
    try:
        return _volume(series, scratch, as_published)
    except DataError:
        raise
    except Exception as error:  # a damaged header can make pydicom raise nearly anything
        raise DataError(
            f"{series.name}: not a readable DICOM series ({reason_of(error)}); replace or remove it"
        ) from error


def _volume(series: Series, scratch: Path | None, as_published: bool) -> tuple[Volume, tuple[str, ...]]:
    check_shape(series.name, (series.columns, series.rows, series.slices))
    datasets = dicom_pixels.read_files(series.files)
    slices = _in_order([plane for path in series.files for plane in slices_of(path, datasets[path])])
    if len(slices) != series.slices:
        raise DataError(f"{series.name}: {len(slices)} slices, {series.slices} when it was found; start again")
    stacked = stack(slices)
    stored = dicom_pixels.stored_values(slices, datasets, scratch)
    array, notices = _rescaled(series, stored, slices, datasets)
    if not as_published:
        array, told = without_padding(array, _padded(stored, slices, datasets), series.modality)
        notices += (told,) if told else ()
    del stored
    check_values(series.name, array)
    volume = Volume(array, stacked.affine)
    if stacked.tilted:
        volume = straightened(volume, AIR if series.modality == "CT" else float(array.min()))
        notices += (f"tilted gantry: slices were moved by up to {stacked.drift:.1f} mm to stand upright",)
    return volume, notices


def _in_order(slices: Sequence[Slice]) -> list[Slice]:
    """The first slice in each place; `find_series` has made sure that others there are the same."""
    return [slices[group[0]] for group in places(slices)]


def _rescaled(
    series: Series, stored: np.ndarray, slices: Sequence[Slice], datasets: dicom_pixels.Datasets
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Stored values times slope plus intercept (PS3.3, C.11.1.1.2), slice by slice; 1 and 0 where they are not said."""
    array = np.empty(stored.shape, np.float32)
    silent = 0
    for k, plane in enumerate(slices):
        slope, intercept = rescaling(datasets[plane.path], plane.frame)
        silent += intercept is None
        array[:, :, k] = stored[:, :, k].astype(np.float32) * np.float32(1 if slope is None else slope)
        array[:, :, k] += np.float32(0 if intercept is None else intercept)
    if series.modality != "CT" or not silent:
        return array, ()
    return array, (f"{silent} of {len(slices)} slices do not say RescaleIntercept; stored values are taken for HU",)


def _padded(stored: np.ndarray, slices: Sequence[Slice], datasets: dicom_pixels.Datasets) -> np.ndarray:
    """[columns, rows, slices] bool: where the padding values of each slice's header are."""
    padded = np.zeros(stored.shape, bool)
    for k, plane in enumerate(slices):
        if (bounds := padding_range(datasets[plane.path])) is not None:
            padded[:, :, k] = (stored[:, :, k] >= bounds[0]) & (stored[:, :, k] <= bounds[1])
    return padded


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in Path(folder).iterdir() if path.is_file())
