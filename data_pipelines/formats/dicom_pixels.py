"""Stored values of the slices of a DICOM series, from whatever transfer syntax.

pydicom decodes what it can by itself (plain, deflated, RLE, and by Pillow JPEG and JPEG 2000). What it cannot (JPEG Lossless,
JPEG-LS, 12 bits of JPEG), dcm2niix decodes (Li et al. 2016, doi 10.1016/j.jneumeth.2016.03.001). It is shown copies of the
slices in the order that we have found, each with a position of our making and no other element than it needs: left to the
headers that people have, it takes numbers that are blank or all the same for others without an error.
"""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_pipelines.errors import DataError
from data_pipelines.formats.dicom_headers import NotReadable, Slice, read_dataset, reason_of, rescaling, value

PIXEL_MODULE = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "PhotometricInterpretation",
)  # fmt: skip
END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000 alike
MOST_RATIO = (
    10_000  # of voxels' bytes to compressed ones, in one file: a slice of air alone can take a few hundred bytes
)
PATIENCE = 900  # seconds that a series may take


Datasets = Mapping[Path, pydicom.Dataset]


def read_files(paths: Sequence[Path]) -> dict[Path, pydicom.Dataset]:
    """The files of a series as pydicom reads them, pixels included but not decoded.

    Raises:
      DataError: one cannot be read, or holds no pixels, or its header claims far more of them than there are.
    """
    return {path: _dataset(path) for path in paths}


def stored_values(slices: Sequence[Slice], datasets: Datasets, scratch: Path | None) -> np.ndarray:
    """Decodes slices.

    Args:
      slices: in their order, all of one size.
      datasets: of their files, as `read_files` gives them.
      scratch: a folder for copies on their way through dcm2niix; None to do without it.

    Returns:
      [columns, rows, slices] of an integer type (or float, where the files have floats).

    Raises:
      DataError: they cannot be decoded.
    """
    try:
        return np.stack([image.T for image in _by_pydicom(slices, datasets)], axis=-1)
    except Exception as error:  # a plug-in that is not there, or damaged pixels: the other decoder tells which
        if scratch is not None and all(_is_compressed(dataset) for dataset in datasets.values()):
            return _by_dcm2niix(slices, datasets, scratch)
        advice = "replace the files or convert them to NIfTI"
        folder = slices[0].path.parent
        raise DataError(f"{folder}: pixels of a slice cannot be decoded ({reason_of(error)}); {advice}") from error


def all_the_same(slices: Sequence[Slice]) -> bool:
    """Whether slices hold, bit by bit, the same pixels and the same rescaling; not if one of them cannot be read."""
    try:
        datasets = read_files([plane.path for plane in slices])
        return len({_bits(plane, datasets[plane.path]) for plane in slices}) == 1
    except Exception:  # damaged; reading the series says so
        return False


def _bits(plane: Slice, dataset: pydicom.Dataset) -> tuple[bytes, tuple[float | None, float | None]]:
    count = max(1, int(value(dataset, "NumberOfFrames", 1)))
    if _is_compressed(dataset):
        pixels = list(generate_frames(dataset.PixelData, number_of_frames=count))[plane.frame]
    else:
        size = int(dataset.Rows) * int(dataset.Columns) * int(dataset.BitsAllocated) // 8
        pixels = dataset.PixelData[plane.frame * size : (plane.frame + 1) * size]
    return pixels, rescaling(dataset, plane.frame)


def _by_pydicom(slices: Sequence[Slice], datasets: Datasets) -> Iterator[np.ndarray]:
    last = None
    for plane in slices:
        if plane.path != last:
            last, array = plane.path, datasets[plane.path].pixel_array
        yield array[plane.frame] if array.ndim == 3 else array


def _by_dcm2niix(slices: Sequence[Slice], datasets: Datasets, scratch: Path) -> np.ndarray:
    first = slices[0]
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        source, target = Path(folder, "in"), Path(folder, "out")
        source.mkdir(), target.mkdir()
        uid, last = generate_uid(), None
        for n, plane in enumerate(slices):
            dataset = datasets[plane.path]
            if plane.path != last:
                count = int(value(dataset, "NumberOfFrames", 1))
                last, frames = plane.path, list(generate_frames(dataset.PixelData, number_of_frames=count))
            # dcm2niix makes something of half a picture too, and does not say so.
            if not frames[plane.frame].rstrip(b"\0").endswith(END_OF_IMAGE):
                raise DataError(f"{plane.path}: its compressed pixels are cut short; replace or remove it")
            _write_plain(source / f"{n:06}.dcm", dataset, frames[plane.frame], n, uid)
        array = _converted(first.path.parent, source, target)
    if array.shape != (first.columns, first.rows, len(slices)):
        raise DataError(
            f"{first.path.parent}: dcm2niix makes {'x'.join(map(str, array.shape))} voxels of "
            f"{first.columns}x{first.rows}x{len(slices)}; convert it to NIfTI by other means"
        )
    return _with_sign(array, datasets[first.path])


def _is_compressed(dataset: pydicom.Dataset) -> bool:
    syntax = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    return bool(syntax is not None and syntax.is_transfer_syntax and syntax.is_encapsulated)


def dcm2niix_binary() -> Path:
    """Where the converter is.

    Raises:
      DataError: it is not installed.
    """
    try:
        import dcm2niix

        binary = Path(dcm2niix.bin)
    except ImportError:
        binary = Path("dcm2niix")
    if not binary.is_file():
        raise DataError(
            "dcm2niix, which decodes JPEG Lossless and JPEG-LS, is not installed: pip install dcm2niix, or convert the "
            "series to NIfTI"
        )
    return binary


def _dataset(path: Path) -> pydicom.Dataset:
    try:
        dataset = read_dataset(path)
        if dataset is None or not any(
            key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
        ):
            raise NotReadable("there are no pixels in it")
        claimed = int(dataset.Rows) * int(dataset.Columns) * max(1, int(value(dataset, "NumberOfFrames", 1)))
        claimed *= max(1, int(value(dataset, "BitsAllocated", 16)) // 8)
        there = len(dataset.PixelData or b"") if "PixelData" in dataset else claimed
        if claimed > there * (MOST_RATIO if _is_compressed(dataset) else 1):
            raise NotReadable(f"{there} bytes of pixels, the header claims {claimed}: cut short, or a damaged header")
    except Exception as error:  # a damaged value can make pydicom raise nearly anything
        raise DataError(f"{path}: not a readable DICOM slice ({reason_of(error)}); replace or remove it") from error
    return dataset


def _write_plain(path: Path, dataset: pydicom.Dataset, frame: bytes, n: int, uid: str) -> None:
    """Writes one compressed frame as the n-th slice of a series with nothing in its header but what decoding needs."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    plain = pydicom.Dataset()
    plain.file_meta = meta
    plain.SOPClassUID, plain.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    plain.Modality, plain.SeriesInstanceUID, plain.StudyInstanceUID = "CT", uid, uid
    plain.SeriesNumber, plain.AcquisitionNumber, plain.InstanceNumber = 1, 1, n + 1
    plain.ImageType, plain.PatientPosition = ["ORIGINAL", "PRIMARY", "AXIAL"], "HFS"
    plain.ImageOrientationPatient, plain.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, n]
    plain.PixelSpacing, plain.SliceThickness = [1, 1], 1
    for key in PIXEL_MODULE:
        setattr(plain, key, dataset.get(key))
    plain.PixelData = encapsulate([frame])
    plain["PixelData"].VR, plain["PixelData"].is_undefined_length = "OB", True
    plain.save_as(path, enforce_file_format=True, implicit_vr=ExplicitVRLittleEndian.is_implicit_VR, little_endian=True)


def _converted(folder: Path, source: Path, target: Path) -> np.ndarray:
    """[columns, rows, slices] of the volume that dcm2niix makes of slices written by `_write_plain`."""
    # -g i: whatever defaults the user keeps; -l o, -p n: values as stored; -m y, -x i: one volume, as it lies
    options = ["-g", "i", "-b", "n", "-z", "n", "-l", "o", "-p", "n", "-m", "y", "-x", "i", "-f", "volume"]
    try:
        done = subprocess.run(
            [dcm2niix_binary(), *options, "-o", target, source], capture_output=True, timeout=PATIENCE, cwd=target
        )
        paths = list(target.glob("*.nii"))
        if done.returncode or len(paths) != 1:
            raise ValueError(f"exit status {done.returncode}, {len(paths)} volumes")
        image = nib.load(paths[0])
        order = nib.orientations.ornt_transform(nib.io_orientation(image.affine), [[0, -1], [1, -1], [2, 1]])
        image = image.as_reoriented(order)
        # Where we have put them: RAS+ of what lies at 0, 1, 2, ... in LPS+.
        if not np.allclose(image.affine, np.diag([-1, -1, 1, 1]), atol=1e-3):
            raise ValueError("the volume lies elsewhere than its slices")
        return np.asarray(image.dataobj)
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{folder}: pixels of a slice cannot be decoded, neither by pydicom nor by dcm2niix ({reason_of(error)}); "
            "replace the files or convert them to NIfTI"
        ) from error


def _with_sign(array: np.ndarray, dataset: pydicom.Dataset) -> np.ndarray:
    """Values as the header has them: signed or not, of so many bits; some encoders do not say it in the pixels."""
    bits = int(dataset.BitsStored)
    array = array.astype(np.int32)
    if int(dataset.PixelRepresentation) == 1:
        half = 1 << (bits - 1)
        return (array + half) % (1 << bits) - half
    return array % (1 << bits)
