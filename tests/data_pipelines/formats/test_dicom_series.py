import os

import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

from data_pipelines.formats import dicom_series
from data_pipelines.formats.dicom_series import find_series
from test_dicom import COLUMNS, ROWS, SLICES, stored, write_slice


def write_series(folder, count=SLICES, name="{}.dcm", **changes):
    for k in range(count):
        write_slice(folder / name.format(k), k, **changes)
    return folder


def sagittal(k):
    return {"ImageOrientationPatient": [0.0, 1, 0, 0, 0, -1], "ImagePositionPatient": [3.0 * k, -50.0, 100.0]}


def test_a_series_is_described_by_its_headers(tmp_path):
    write_series(tmp_path, name="slice {}", PatientID="P 1", StudyDate="20200102", SeriesDescription="thin", SeriesNumber=7,
                 StudyInstanceUID="1.2", ImageType=["ORIGINAL", "PRIMARY", "AXIAL"])  # fmt: skip
    (series,) = find_series(tmp_path)
    assert (series.uid, series.patient, series.date, series.description) == ("1.2.3", "P 1", "20200102", "thin")
    assert (series.study, series.number, series.modality) == ("1.2", 7, "CT")
    assert series.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (series.rows, series.columns, series.slices) == (ROWS, COLUMNS, SLICES)
    np.testing.assert_allclose(series.spacing, (0.6, 0.7, 2.5))
    assert series.orientation == (1, 0, 0, 0, 1, 0)
    assert (series.status, series.reason, series.faulty) == ("use", "", False)


def test_files_are_sorted_by_where_they_lie(tmp_path):
    for name, k in zip("51432", range(SLICES), strict=True):
        write_slice(tmp_path / f"{name}.dcm", k, InstanceNumber=1)
    (series,) = find_series(tmp_path)
    assert [path.stem for path in series.files] == list("51432")


@pytest.mark.parametrize("name", ["IM{:04}", "{}.IMA", "1.3.12.2.1107.{}", "deep/er/{}.dcm", "{}.dat"])
def test_files_are_known_by_what_they_hold_not_by_their_names(tmp_path, name):
    write_series(tmp_path, name=name)
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "DICOMDIR").write_bytes(b"")
    assert [series.slices for series in find_series(tmp_path)] == [SLICES]


@pytest.mark.parametrize(("suffix", "found"), [(".dcm", [SLICES]), (".IMA", [SLICES]), ("", [])])
def test_files_older_than_the_mark_are_known_by_their_suffix(tmp_path, suffix, found):
    for k in range(SLICES):
        write_slice(tmp_path / "new", k)
        image = pydicom.dcmread(tmp_path / "new")
        image.preamble = None
        del image.file_meta
        (tmp_path / "new").unlink()
        pydicom.dcmwrite(tmp_path / f"{k}{suffix}", image, implicit_vr=True, little_endian=True)
    assert ImplicitVRLittleEndian.is_implicit_VR
    assert [series.slices for series in find_series(tmp_path)] == found


def test_series_are_grouped_by_uid_wherever_their_files_lie(tmp_path):
    write_series(tmp_path / "a", SeriesNumber=1)
    write_series(tmp_path / "a", name="other{}", SeriesInstanceUID="1.2.4", SeriesNumber=2)
    write_slice(tmp_path / "b/more", SLICES, SeriesNumber=1)
    write_series(tmp_path / "c", PatientID="Q", SeriesNumber=3)  # a uid that an anonymiser gave twice
    found = find_series(tmp_path)
    assert [(series.patient, series.uid, series.slices) for series in found] == [
        ("", "1.2.3", SLICES + 1),
        ("", "1.2.4", SLICES),
        ("Q", "1.2.3", SLICES),
    ]


def test_series_without_a_uid_are_told_apart_by_their_folders(tmp_path):
    write_series(tmp_path / "a", SeriesInstanceUID="")
    write_series(tmp_path / "b", SeriesInstanceUID="")
    assert [series.slices for series in find_series(tmp_path)] == [SLICES, SLICES]


def test_linked_folders_are_followed_once(tmp_path):
    write_series(tmp_path / "elsewhere/s")
    (tmp_path / "root").mkdir()
    os.symlink(tmp_path / "elsewhere/s", tmp_path / "root/s")
    os.symlink(tmp_path / "root", tmp_path / "elsewhere/s/back")
    os.symlink(tmp_path / "nowhere", tmp_path / "root/dangling")
    assert [(series.slices, series.reason) for series in find_series(tmp_path / "root")] == [(SLICES, "")]


def test_only_the_files_given_are_looked_at(tmp_path):
    write_series(tmp_path)
    paths = [tmp_path / f"{k}.dcm" for k in range(4)]
    assert find_series(tmp_path, paths)[0].files == tuple(paths)


@pytest.mark.parametrize("changes", [{}, {"SOPInstanceUID": "1.9", "InstanceNumber": 77}])
def test_duplicates_are_dropped_and_told(tmp_path, changes):
    write_series(tmp_path)
    write_slice(tmp_path / "again.dcm", 2, **changes)
    (series,) = find_series(tmp_path)
    assert (series.status, series.slices, len(series.files)) == ("use", SLICES, SLICES)
    assert series.reason == "1 duplicate slice dropped"


def test_other_pixels_or_another_rescaling_are_no_duplicate(tmp_path):
    write_series(tmp_path)
    write_slice(tmp_path / "again.dcm", 2, RescaleIntercept=0)
    (series,) = find_series(tmp_path)
    assert (series.status, series.reason) == ("left out", "different images in one place, up to 2 of them")
    for k in range(SLICES):
        write_slice(tmp_path / f"echo{k}.dcm", k, PixelData=stored(k + 1).tobytes())
    (tmp_path / "again.dcm").unlink()
    (series,) = find_series(tmp_path)
    assert series.reason == "2 different images in each place (echoes, phases, b-values): a 4D series"
    assert series.status == "left out"


def test_a_scout_in_a_series_is_set_apart(tmp_path):
    write_series(tmp_path)
    write_slice(tmp_path / "scout.dcm", 0, **sagittal(0))
    volume, scout = find_series(tmp_path)
    assert (volume.status, volume.slices) == ("use", SLICES)
    assert (scout.status, scout.files) == ("left out", (tmp_path / "scout.dcm",))
    assert scout.reason.startswith("1 slice of another orientation") and "localiser?" in scout.reason


def test_a_series_of_several_orientations_alike_is_no_volume(tmp_path):
    write_series(tmp_path)
    for k in range(SLICES):
        write_slice(tmp_path / f"sagittal{k}", k, **sagittal(k))
    (series,) = find_series(tmp_path)
    assert (series.status, series.slices) == ("left out", 2 * SLICES)
    assert "slices of 2 orientations" in series.reason


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("localiser", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("localiser", {"SeriesDescription": "3-plane_Loc"}),
        ("localiser", {"SeriesDescription": "Topogram 0.6 T80s"}),
        ("projection", {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}),
        ("projection", {"SeriesDescription": "axial MIPs"}),
        ("mosaic", {"Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}),
        ("secondary capture", {"SOPClassUID": pydicom.uid.SecondaryCaptureImageStorage}),
        ("secondary capture", {"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}),
        ("radiograph", {"Modality": "DX"}),
        ("structured report", {"Modality": "SR", "Rows": None, "PixelData": None}),
        ("segmentation", {"Modality": "SEG"}),
        ("modality OPT", {"Modality": "OPT"}),
        ("RGB: not one measured value", {"PhotometricInterpretation": "RGB"}),
        ("MONOCHROME1", {"PhotometricInterpretation": "MONOCHROME1"}),
        ("an image without pixels: cut short?", {"Rows": None, "PixelData": None}),
        ("PixelSpacing is missing or empty", {"PixelSpacing": ""}),
        ("ImageOrientationPatient is missing or empty", {"ImageOrientationPatient": ""}),
        ("not two unit vectors at a right angle", {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}),
        ("not readable: ImagePositionPatient is", {"ImagePositionPatient": [1, 2]}),
    ],
)
def test_what_is_no_volume_is_left_out_for_a_reason(tmp_path, reason, changes):
    write_series(tmp_path, **changes)
    found = find_series(tmp_path)
    assert {series.status for series in found} == {"left out"} and reason in found[0].reason


@pytest.mark.parametrize("description", ["Local recon", "velocity", "block", "ship", "Survived"])
def test_words_that_hold_others_are_no_localisers(tmp_path, description):
    write_series(tmp_path, SeriesDescription=description)
    assert [series.status for series in find_series(tmp_path)] == ["use"]


@pytest.mark.parametrize(("count", "reason"), [(1, "1 slice only"), (3, "3 slices only"), (4, "")])
def test_few_slices_are_no_volume(tmp_path, count, reason):
    write_series(tmp_path, count)
    (series,) = find_series(tmp_path)
    assert series.reason == reason and not series.faulty


def test_missing_slices_are_counted(tmp_path):
    write_series(tmp_path, 12)
    (tmp_path / "6.dcm").unlink()
    (series,) = find_series(tmp_path)
    assert (series.status, series.faulty) == ("left out", True)
    assert series.reason == "11 of 12 slices, 1 missing at 2.5 mm"


def test_uneven_slices_are_left_out(tmp_path):
    for k in range(12):
        write_slice(tmp_path / f"{k}.dcm", k, ImagePositionPatient=[-100.0, -50.0, 2.5 * (k + 0.12 * (k % 2))])
    (series,) = find_series(tmp_path)
    assert (series.faulty, series.reason) == (True, "12 slices, unevenly 2.2 to 2.8 mm apart")


def test_positions_rounded_by_a_scanner_are_regular(tmp_path):
    for k in range(12):
        write_slice(tmp_path / f"{k}.dcm", k, ImagePositionPatient=[-100.0, -50.0, round(0.625 * k, 2)])
    (series,) = find_series(tmp_path)
    assert series.status == "use" and abs(series.spacing[2] - 0.625) < 0.01


def test_damaged_files_are_there_with_what_is_wrong(tmp_path):
    write_series(tmp_path)
    whole = (tmp_path / "4.dcm").read_bytes()
    (tmp_path / "4.dcm").write_bytes(whole[:200])
    (tmp_path / "hello.dcm").write_bytes(b"hello" * 100)
    found = find_series(tmp_path)
    assert {series.files[0].name: (series.status, series.faulty) for series in found} == {
        "0.dcm": ("use", False),
        "4.dcm": ("left out", True),
        "hello.dcm": ("left out", True),
    }
    assert all("\n" not in series.reason for series in found)


def test_names_of_series_are_one_line_whatever_the_header_says(tmp_path):
    write_series(tmp_path, SeriesDescription="two\nlines")
    assert "\n" not in find_series(tmp_path)[0].name


def test_headers_alone_are_read(tmp_path, monkeypatch):
    write_series(tmp_path)
    monkeypatch.setattr(dicom_series.dicom_pixels, "read_files", lambda paths: pytest.fail("reads pixels"))
    assert find_series(tmp_path)[0].slices == SLICES
