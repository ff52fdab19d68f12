"""Transfer syntaxes and multi-frame files, on made-up series and on the files that pydicom brings with it."""

import struct
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    JPEGLosslessSV1,
    RLELossless,
)

from data_pipelines.errors import DataError
from data_pipelines.formats import dicom_convert, dicom_pixels
from data_pipelines.formats.dicom_choice import choose
from data_pipelines.formats.dicom_series import find_series
from test_dicom import COLUMNS, ROWS, SLICES, stored, write_slice
from test_dicom_convert import VOLUME, convert
from test_dicom_series import write_series


def jpeg_lossless(image):
    """JPEG process 14, selection value 1, of [rows, columns] 16-bit values (ITU T.81, annex H); every code has 5 bits."""
    values = image.view(np.uint16).astype(np.int64)
    guess = np.full_like(values, 1 << 15)
    guess[1:, 0] = values[:-1, 0]
    guess[:, 1:] = values[:, :-1]
    bits = ""
    for difference in ((values - guess + 2**15) % 2**16 - 2**15).ravel().tolist():
        length = abs(difference).bit_length()
        bits += f"{length:05b}"
        if length:
            bits += f"{difference if difference > 0 else difference + (1 << length) - 1:0{length}b}"
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")

    def segment(marker, content):
        return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content

    frame = segment(0xC3, struct.pack(">BHHB", 16, *image.shape, 1) + bytes([0, 0x11, 0]))
    table = segment(0xC4, bytes([0, 0, 0, 0, 0, 17, *[0] * 11]) + bytes(range(17)))
    return b"\xff\xd8" + frame + table + segment(0xDA, bytes([1, 0, 0, 1, 0, 0])) + scan + b"\xff\xd9"


def compress(folder, frames_of=lambda image: [jpeg_lossless(image.pixel_array)]):
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.PixelData = encapsulate(frames_of(image))
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        image.file_meta.TransferSyntaxUID = JPEGLosslessSV1
        image.save_as(path)
    return folder


def write_enhanced(path, places=None, **changes):
    """A CT of one file: the orientation shared by all its frames, a position and an intercept of each one's own."""
    write_slice(path, 0)
    image = pydicom.dcmread(path)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(image, key)
    shared, frames = Dataset(), []
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [Dataset()], [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = [0.7, 0.6]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    places = range(SLICES) if places is None else places
    for k in places:
        frame = Dataset()
        frame.PlanePositionSequence, frame.PixelValueTransformationSequence = [Dataset()], [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [-100, -50, 30 + 2.5 * k]
        frame.PixelValueTransformationSequence[0].RescaleSlope = 2
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -1024
        frames.append(frame)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = [shared], frames
    image.NumberOfFrames = len(frames)
    image.PixelData = np.stack([stored(k) for k in places]).tobytes()
    for key, value in changes.items():
        setattr(image, key, value)
    image.save_as(path)


def by_dcm2niix_alone(folder, out):
    options = ["-g", "i", "-b", "n", "-f", "alone", "-o", out]
    subprocess.run([dicom_pixels.dcm2niix_binary(), *options, folder], capture_output=True, check=True)
    return nib.load(out / "alone.nii")


def rle(folder):
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.compress(RLELossless)
        image.save_as(path)


def deflated(folder):
    for path in folder.iterdir():
        image = pydicom.dcmread(path)
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        image.save_as(path)


@pytest.mark.parametrize("change", [rle, deflated, compress])
def test_syntaxes_give_the_values_that_went_in(tmp_path, change):
    change(write_series(tmp_path / "s"))
    volume = convert(tmp_path / "s")
    np.testing.assert_array_equal(volume.array, VOLUME)
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [98.2, 48.6, 32.5, 1])
    image = SimpleITK.ReadImage([str(path) for path in find_series(tmp_path / "s")[0].files])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, volume.array)


def test_what_dcm2niix_decodes_is_signed_as_the_header_says_and_padding_is_known(tmp_path):
    for k in range(SLICES):
        pixels = stored(k)
        pixels[0] = -2000
        write_slice(tmp_path / f"s/{k}", k, PixelData=pixels.tobytes(), PixelPaddingValue=-2000)
    compress(tmp_path / "s")
    expected = VOLUME.copy()
    expected[:, 0] = -1000
    np.testing.assert_array_equal(convert(tmp_path / "s").array, expected)


def test_headers_that_mislead_dcm2niix_are_not_shown_to_it(tmp_path):
    """Of these it makes two slices by itself, with an exit status of 0, and forgets the intercept where the slope is blank."""
    misleading = {"Manufacturer": "SIEMENS", "AcquisitionNumber": 1, "InstanceNumber": 1, "RescaleSlope": ""}
    for k in range(12):
        write_slice(tmp_path / f"s/{k:02}", k, **misleading)
    volume = convert(compress(tmp_path / "s"))
    np.testing.assert_array_equal(volume.array, np.stack([stored(k).T - 1024 for k in range(12)], axis=-1))


@pytest.mark.parametrize("name", ["MR_small", "RLE", "jp2klossless", "jpeg_ls_lossless", "bigendian", "implicit"])
def test_a_real_mr_in_every_syntax(tmp_path, name):
    """Slices of pydicom's own file, four times, one above the other."""
    path = pydicom.data.get_testdata_file("MR_small.dcm" if name == "MR_small" else f"MR_small_{name}.dcm")
    image = pydicom.dcmread(path)
    for k in range(4):
        image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 3.0 * k], [1, 0, 0, 0, 1, 0]
        (tmp_path / "s").mkdir(exist_ok=True)
        image.save_as(tmp_path / f"s/{k}")
    expected = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm")).pixel_array.T
    array = convert(tmp_path / "s").array
    assert array.shape == (64, 64, 4) and (array == expected[..., None]).all()


@pytest.mark.parametrize("places", [range(SLICES), range(SLICES - 1, -1, -1), [2, 0, 4, 1, 3]])
@pytest.mark.parametrize("compressed", [False, True])
def test_a_multi_frame_ct_is_a_volume(tmp_path, places, compressed):
    write_enhanced(tmp_path / "s/a", places)
    if compressed:
        compress(tmp_path / "s", lambda image: [jpeg_lossless(frame) for frame in image.pixel_array])
    (series,) = find_series(tmp_path / "s")
    assert (series.status, series.slices, series.modality) == ("use", SLICES, "CT")
    volume = convert(tmp_path / "s")
    np.testing.assert_array_equal(volume.array, VOLUME)
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [98.2, 48.6, 32.5, 1])


def test_dcm2niix_by_itself_agrees_about_a_multi_frame_ct(tmp_path):
    write_enhanced(tmp_path / "s/a")
    image, ours = by_dcm2niix_alone(tmp_path / "s", tmp_path), convert(tmp_path / "s")
    np.testing.assert_array_equal(ours.array, np.asarray(image.dataobj)[:, ::-1])
    np.testing.assert_allclose(image.affine @ [3, ROWS - 1 - 2, 1, 1], ours.affine @ [3, 2, 1, 1], atol=1e-4)


@pytest.mark.parametrize(
    ("reason", "places", "changes"),
    [
        ("4 of 5 slices, 1 missing at 2.5 mm", [0, 1, 3, 4], {}),
        ("6 frames, but 5 functional groups", None, {"NumberOfFrames": 6}),
        ("different images in each place", [0, 1, 2, 3, 4, 0, 1, 2, 3, 4], {"PixelData": bytes(960)[:-2] + b"ab"}),
    ],
)
def test_frames_that_are_no_volume_are_left_out(tmp_path, reason, places, changes):
    if "PixelData" in changes:
        first = np.stack([stored(k) for k in range(SLICES)])
        changes = {"PixelData": np.concatenate([first, first + 1]).tobytes()}
    write_enhanced(tmp_path / "s/a", places, **changes)
    (series,) = find_series(tmp_path / "s")
    assert series.status == "left out" and reason in series.reason


def test_pixels_that_nobody_decodes_are_one_line(tmp_path):
    compress(write_series(tmp_path / "s"), lambda _: [b"\xff\xd8 not a picture" + bytes(100) + b"\xff\xd9"])
    with pytest.raises(DataError, match="neither by pydicom nor by dcm2niix") as raised:
        convert(tmp_path / "s")
    assert str(tmp_path / "s") in str(raised.value) and "\n" not in str(raised.value)
    assert [path.name[-5:] for path in (tmp_path / "cache/converted").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", ["made up", "MR_small_jpeg_ls_lossless", "MR_small_jp2klossless", "MR_small_RLE"])
def test_compressed_pixels_that_end_early_are_one_line(tmp_path, name):
    """The third of four slices has half of its picture."""
    if name == "made up":
        compress(write_series(tmp_path / "s", 4))
    image = pydicom.dcmread(
        tmp_path / "s/2.dcm" if name == "made up" else pydicom.data.get_testdata_file(f"{name}.dcm")
    )
    frame = next(generate_frames(image.PixelData, number_of_frames=1))
    (tmp_path / "s").mkdir(exist_ok=True)
    for k in range(4) if name != "made up" else [2]:
        image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        image.ImagePositionPatient = [-100, -50, 30 + 2.5 * k]
        image.PixelData = encapsulate([frame[: len(frame) // 2] if k == 2 else frame])
        image.save_as(tmp_path / f"s/{k}.dcm")
    with pytest.raises(DataError, match="pixels are cut short|cannot be decoded") as raised:
        convert(tmp_path / "s")
    assert str(tmp_path / "s") in str(raised.value)


def test_compressed_pixels_of_a_huge_claim_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("runs a program"))
    compress(write_series(tmp_path / "s"))
    for path in (tmp_path / "s").iterdir():
        image = pydicom.dcmread(path)
        image.Rows = image.Columns = 12000
        image.save_as(path)
    with pytest.raises(DataError, match="the header claims 288000000: cut short, or a damaged header"):
        convert(tmp_path / "s")


def test_without_dcm2niix_one_line_says_how_to_get_it(tmp_path, monkeypatch):
    compress(write_series(tmp_path / "s"))
    monkeypatch.setitem(sys.modules, "dcm2niix", None)
    with pytest.raises(DataError, match="dcm2niix, .* is not installed: pip install dcm2niix"):
        convert(tmp_path / "s")


@pytest.mark.parametrize("fault", [subprocess.TimeoutExpired("dcm2niix", 1), OSError("Exec format error")])
def test_a_converter_that_fails_is_one_line(tmp_path, monkeypatch, fault):
    def fail(*_, **__):
        raise fault

    compress(write_series(tmp_path / "s"))
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(DataError, match="pixels of a slice cannot be decoded"):
        convert(tmp_path / "s")


def test_all_of_pydicoms_own_files_are_read_right_or_left_out_for_a_reason(tmp_path):
    root = Path(pydicom.data.get_testdata_file("CT_small.dcm")).parent
    found = choose(find_series(root))
    assert len(found) > 40 and all(series.reason for series in found if series.status != "use")
    (used,) = (series for series in found if series.status == "use")
    volume = dicom_convert.read(used, tmp_path)
    image = SimpleITK.ReadImage([str(path) for path in used.files])
    np.testing.assert_array_equal(volume.array, SimpleITK.GetArrayFromImage(image).T)
    place = image.TransformContinuousIndexToPhysicalPoint((5.0, 7.0, 3.0))
    np.testing.assert_allclose((volume.affine @ [5, 7, 3, 1])[:3], np.multiply(place, [-1, -1, 1]), atol=1e-3)
    reasons = {path.name: series.reason for series in found for path in series.files}
    assert not any("DICOMDIR" in name for name in reasons if "empty" not in name)
    for name, reason in {
        "CT_small.dcm": "1 slice only",
        "693_J2KI.dcm": "1 slice only",
        "6293": "localiser",
        "6154": "radiograph",
        "6273": "slices of 3 orientations",
        "4467": "projection",
        "test-SR.dcm": "structured report",
        "liver_1frame.dcm": "segmentation",
        "rtdose.dcm": "radiotherapy dose",
        "examples_jpeg2k.dcm": "ultrasound",
        "17106": "unevenly",
        "no_meta.dcm": "not readable",
        "JPEG-lossy.dcm": "secondary capture",
    }.items():
        assert reason in reasons[name], name


@pytest.mark.parametrize("name", ["693_J2KI", "J2K_pixelrep_mismatch", "CT_small", "examples_overlay"])
def test_real_slices_are_read_as_another_reader_reads_them(tmp_path, name):
    """Slices of pydicom's own file, four times, one above the other, along its own normal."""
    image = pydicom.dcmread(pydicom.data.get_testdata_file(f"{name}.dcm"))
    normal = np.cross(*np.reshape(np.asarray(image.ImageOrientationPatient, float), (2, 3)))
    place = np.asarray(image.ImagePositionPatient, float)
    (tmp_path / "s").mkdir()
    for k in range(4):
        image.ImagePositionPatient = [round(float(v), 6) for v in place + 3 * k * normal]
        image.pop("PixelPaddingValue", None)  # SimpleITK does not look at it
        image.save_as(tmp_path / f"s/{k}")
    (series,) = find_series(tmp_path / "s")
    volume = dicom_convert.read(series, tmp_path / "cache")
    other = SimpleITK.ReadImage([str(path) for path in series.files])
    np.testing.assert_array_equal(volume.array, SimpleITK.GetArrayFromImage(other).T)
    corner = other.TransformContinuousIndexToPhysicalPoint((9.0, 5.0, 3.0))
    np.testing.assert_allclose((volume.affine @ [9, 5, 3, 1])[:3], np.multiply(corner, [-1, -1, 1]), atol=1e-2)
    assert volume.array.shape[0] > COLUMNS
