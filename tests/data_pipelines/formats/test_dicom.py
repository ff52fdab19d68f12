import tracemalloc

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from data_pipelines.errors import DataError
from data_pipelines.formats import dicom

ROWS, COLUMNS, SLICES = 6, 8, 5
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def stored(k: int) -> np.ndarray:
    """[rows, columns] values that tell row, column and slice."""
    rows, columns = np.mgrid[:ROWS, :COLUMNS]
    return (1000 + 100 * k + 10 * rows + columns).astype(np.int16)


def write_slice(path, k, **changes):
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    image.Modality, image.SeriesInstanceUID = "CT", "1.2.3"
    image.Rows, image.Columns = ROWS, COLUMNS
    image.ImageOrientationPatient = list(AXIAL)
    image.ImagePositionPatient = [-100.0, -50.0, 30.0 + 2.5 * k]
    image.PixelSpacing = [0.7, 0.6]  # between rows, then between columns
    image.RescaleSlope, image.RescaleIntercept = 2, -1024
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.PixelData = stored(k).tobytes()
    for key, value in changes.items():
        if value is None:
            delattr(image, key)
        else:
            setattr(image, key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path):
    """File names in another order than the slices, as on TCIA."""
    for name, k in zip("51432", range(SLICES), strict=True):
        write_slice(tmp_path / f"series/{name}.dcm", k)
    return tmp_path / "series"


def test_slices_become_a_volume_in_hounsfield_units(series):
    volume = dicom.read_series(series)
    assert volume.array.shape == (COLUMNS, ROWS, SLICES) and volume.array.dtype == np.float32
    for k in range(SLICES):
        np.testing.assert_array_equal(volume.array[:, :, k], 2.0 * stored(k).T - 1024)
    np.testing.assert_allclose(volume.spacing, [0.6, 0.7, 2.5])
    # Column 3, row 2, slice 1 is at x = -100 + 3 * 0.6, y = -50 + 2 * 0.7, z = 32.5 in LPS.
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [98.2, 48.6, 32.5, 1])


def test_orientation_is_that_of_the_header(tmp_path):
    down, normal = np.array([0.0, 0.6, -0.8]), np.array([0.0, 0.8, 0.6])
    for k in range(3):
        write_slice(tmp_path / f"{k}.dcm", k, ImageOrientationPatient=[1.0, 0, 0, *down],
                    ImagePositionPatient=list(map(float, k * 2.0 * normal)))  # fmt: skip
    volume = dicom.read_series(tmp_path)
    lps = np.array([0.6, 0, 0]) * 3 + 0.7 * down * 2 + 2.0 * normal * 1
    np.testing.assert_allclose((volume.affine @ [3, 2, 1, 1])[:3], lps * [-1, -1, 1], atol=1e-6)


def test_files_without_pixels_are_passed_over(series):
    write_slice(series / "report.dcm", 0, PixelData=None, Rows=None)
    assert dicom.read_series(series).array.shape[2] == SLICES
    assert dicom.modality(series) == "CT"


@pytest.mark.parametrize(
    ("name", "expected", "changes"),
    [
        ("9.dcm", "lie where another one does", {}),
        ("9.dcm", "some are missing", {"ImagePositionPatient": [-100.0, -50.0, 47.5]}),
        ("9.dcm", "SeriesInstanceUID has 2 values", {"SeriesInstanceUID": "1.2.4"}),
        ("9.dcm", "PixelSpacing has 2 values", {"PixelSpacing": [0.7, 0.7]}),
        ("9.dcm", "tilted gantry", {"ImagePositionPatient": [-100.0, -45.0, 42.5]}),
        ("9.dcm", "multi-frame", {"NumberOfFrames": 3}),
        ("9.dcm", "ImagePositionPatient is missing", {"ImagePositionPatient": None}),
        ("5.dcm", "cannot be decoded", {"PixelData": b"\0\0"}),
    ],
)
def test_slices_that_are_no_regular_stack(series, name, expected, changes):
    write_slice(series / name, 0, **changes)
    with pytest.raises(DataError, match=expected) as raised:
        dicom.read_series(series)
    assert str(series) in str(raised.value) and "\n" not in str(raised.value)


def test_unreadable_and_lonely_slices(series, tmp_path):
    (series / "1.dcm").write_bytes((series / "1.dcm").read_bytes()[:100])
    with pytest.raises(DataError, match=r"1\.dcm: not a readable DICOM file"):
        dicom.read_series(series)
    write_slice(tmp_path / "one/1.dcm", 0)
    with pytest.raises(DataError, match="1 DICOM slices"):
        dicom.read_series(tmp_path / "one")


def test_the_source_is_only_read(series):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in series.iterdir()}
    dicom.read_series(series)
    assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in series.iterdir()}
    assert pydicom.dcmread(series / "1.dcm").Rows == ROWS


@pytest.mark.parametrize(
    "changes",
    [
        {"ImagePositionPatient": [1.0]},  # one coordinate
        {"RescaleSlope": [1, 2]},
        {"SeriesInstanceUID": None, "Columns": 60000},
    ],
)
def test_odd_values_are_one_line(series, changes):
    for name in "51432":
        write_slice(series / f"{name}.dcm", int(name), **changes)
    with pytest.raises(DataError) as raised:
        dicom.read_series(series)
    assert str(series) in str(raised.value) and "\n" not in str(raised.value)


def test_a_length_that_is_wrong_asks_for_no_memory(series):
    """The first element says that it has 4 GB."""
    path = series / "1.dcm"
    content = bytearray(path.read_bytes())
    content[136:140] = b"OB\0\0"
    content[140:144] = b"\xf0\xff\xff\xff"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=str(series)):
        dicom.modality(series), dicom.read_series(series)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
