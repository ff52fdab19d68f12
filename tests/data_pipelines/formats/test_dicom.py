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
        elif value == "":
            setattr(image, key, None)  # there, without a value
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
    write_slice(series / "report.dcm", 0, PixelData=None, Rows=None, Modality="SR")
    assert dicom.read_series(series).array.shape[2] == SLICES
    assert dicom.modality(series) == "CT"


@pytest.mark.parametrize(
    ("name", "expected", "changes"),
    [
        ("9.dcm", "different images in one place, up to 2", {"PixelData": stored(1).tobytes()}),
        ("9.dcm", "6 of 8 slices, 2 missing at 2.5 mm", {"ImagePositionPatient": [-100.0, -50.0, 47.5]}),
        ("9.dcm", "shift sideways, unsteadily, by 5.0 mm", {"ImagePositionPatient": [-100.0, -45.0, 42.5]}),
        ("5.dcm", "4 of 5 slices, 1 missing", {"ImagePositionPatient": None, "PixelData": stored(0).tobytes()}),
        ("5.dcm", "2 bytes of pixels, the header claims 96", {"PixelData": b"\0\0"}),
    ],
)
def test_slices_that_are_no_regular_stack(series, name, expected, changes):
    k = 1 if name == "5.dcm" else 0
    for path, n in zip("51432", range(SLICES), strict=True):  # 5.dcm in the middle
        write_slice(series / f"{path}.dcm", {0: 1, 1: 0}.get(n, n))
    write_slice(series / name, k, **changes)
    with pytest.raises(DataError, match=expected) as raised:
        dicom.read_series(series)
    assert str(series) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("told", "changes"),
    [
        ("1 duplicate slice dropped", {}),
        ("1 slice of another orientation", {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1]}),
        ("1 slice of another orientation, size or pixel spacing", {"PixelSpacing": [0.7, 0.7]}),
        ("ImagePositionPatient is missing", {"ImagePositionPatient": None}),
        ("multi-frame image without a place for each frame", {"NumberOfFrames": 3}),
        ("1 slice only", {"SeriesInstanceUID": "1.2.4"}),
    ],
)
def test_what_lies_beside_a_series_is_passed_over_and_told(series, capsys, told, changes):
    alone = dicom.read_series(series)
    assert capsys.readouterr().err == ""
    write_slice(series / "9.dcm", 0, **changes)
    volume = dicom.read_series(series)
    np.testing.assert_array_equal(volume.array, alone.array)
    np.testing.assert_array_equal(volume.affine, alone.affine)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(series) in line and told in line


def test_padding_stays_as_published(tmp_path):
    for k in range(SLICES):
        pixels = stored(k)
        pixels[0] = -2000
        write_slice(tmp_path / f"{k}.dcm", k, PixelData=pixels.tobytes(), PixelPaddingValue=-2000)
    assert (dicom.read_series(tmp_path).array[:, 0] == 2 * -2000 - 1024).all()


def test_a_tilted_gantry_is_refused_as_published(tmp_path):
    for k in range(SLICES):
        write_slice(tmp_path / f"{k}.dcm", k, ImagePositionPatient=[0.0, 1.0 * k, 2.5 * k])
    with pytest.raises(DataError, match="slices shift sideways .a tilted gantry."):
        dicom.read_series(tmp_path)


def test_two_whole_series_in_a_folder_are_not_chosen_between(series):
    for k in range(SLICES):
        write_slice(series / f"other{k}", k, SeriesInstanceUID="1.2.4")
    with pytest.raises(DataError, match="SeriesInstanceUID has 2 values; keep a series in a folder of its own"):
        dicom.read_series(series)


@pytest.mark.parametrize(
    ("key", "intercept"), [("RescaleSlope", -1024), ("RescaleIntercept", 0), ("NumberOfFrames", -1024)]
)
def test_an_empty_element_counts_as_an_absent_one(tmp_path, key, intercept):
    for k in range(SLICES):
        write_slice(tmp_path / f"{k}.dcm", k, **({"RescaleSlope": 1} | {key: ""}))
    assert pydicom.dcmread(tmp_path / "1.dcm")[key].is_empty
    np.testing.assert_array_equal(dicom.read_series(tmp_path).array[:, :, 1], stored(1).T + intercept)


def test_no_position_is_one_line(tmp_path):
    for k in range(SLICES):
        write_slice(tmp_path / f"{k}.dcm", k, ImagePositionPatient="")
    with pytest.raises(DataError, match="ImagePositionPatient is missing or empty"):
        dicom.read_series(tmp_path)


def test_numbers_are_compared_as_numbers(tmp_path):
    for k in range(SLICES):
        write_slice(
            tmp_path / f"{k}.dcm",
            k,
            PixelSpacing=["0.7", "0.6"] if k % 2 else ["0.700000", "0.60"],
            ImageOrientationPatient=["1", "-0.0", "0", "0", "1", "0"] if k % 2 else ["1", "1e-7", "0", "0", "1.0", "0"],
        )
    assert dicom.read_series(tmp_path).array.shape == (COLUMNS, ROWS, SLICES)


def test_unreadable_and_lonely_slices(series, tmp_path):
    whole = (series / "1.dcm").read_bytes()
    for cut, found in ((100, "not readable"), (200, "not readable: cut short"), (500, "an image without pixels")):
        (series / "1.dcm").write_bytes(whole[:cut])
        with pytest.raises(DataError, match=rf"1\.dcm: {found}"):
            dicom.read_series(series)
    write_slice(tmp_path / "one/1.dcm", 0)
    with pytest.raises(DataError, match="1 slice only"):
        dicom.read_series(tmp_path / "one")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="0 DICOM slices"):
        dicom.read_series(tmp_path / "none")


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
