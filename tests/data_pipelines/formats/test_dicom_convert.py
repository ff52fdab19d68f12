import random
import stat
import subprocess
import threading

import numpy as np
import pytest
import SimpleITK

from data_pipelines.errors import DataError
from data_pipelines.formats import dicom_convert
from data_pipelines.formats.dicom_series import find_series
from test_dicom import COLUMNS, ROWS, SLICES, stored, write_slice
from test_dicom_series import write_series

VOLUME = np.stack([2.0 * stored(k).T - 1024 for k in range(SLICES)], axis=-1)


def convert(folder, cache=None):
    (series,) = (series for series in find_series(folder) if series.status == "use")
    return dicom_convert.read(series, cache or folder.parent / "cache")


def by_simpleitk(series):
    """The values [columns, rows, slices], and the RAS+ mm of voxel (3, 2, 1), of an independent reader."""
    image = SimpleITK.ReadImage([str(path) for path in series.files])
    place = image.TransformContinuousIndexToPhysicalPoint((3.0, 2.0, 1.0))
    return SimpleITK.GetArrayFromImage(image).T, np.multiply(place, [-1, -1, 1])


def test_a_series_becomes_a_volume_in_hounsfield_units(tmp_path, capsys):
    volume = convert(write_series(tmp_path / "s"))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, VOLUME)
    # Column 3, row 2, slice 1 is at x = -100 + 3 * 0.6, y = -50 + 2 * 0.7, z = 32.5 in LPS.
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [98.2, 48.6, 32.5, 1])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("orientation", "step"),
    [
        ([1.0, 0, 0, 0, 1, 0], [0, 0, -2.5]),  # from the top down
        ([0.0, 1, 0, 0, 0, -1], [3.0, 0, 0]),  # sagittal
        ([1.0, 0, 0, 0, 0, -1], [0, 2.0, 0]),  # coronal
        ([1.0, 0, 0, 0, 0.6, -0.8], [0, 1.6, 1.2]),  # oblique
        ([-1.0, 0, 0, 0, -1, 0], [0, 0, 1.0]),  # prone
    ],
)
def test_a_landmark_lies_where_another_reader_has_it(tmp_path, orientation, step):
    for k in range(SLICES):
        place = [float(v) for v in np.array([10.0, -20, 30]) + k * np.array(step)]
        write_slice(tmp_path / f"s/{k}", k, ImageOrientationPatient=orientation, ImagePositionPatient=place)
    volume = convert(tmp_path / "s")
    values, place = by_simpleitk(find_series(tmp_path / "s")[0])
    np.testing.assert_array_equal(volume.array, values)
    np.testing.assert_allclose((volume.affine @ [3, 2, 1, 1])[:3], place, atol=1e-4)


def test_a_series_is_converted_once(tmp_path, monkeypatch):
    folder = write_series(tmp_path / "s")
    first = convert(folder)
    monkeypatch.setattr(dicom_convert.dicom, "read_volume", lambda *_: pytest.fail("converts again"))
    again = convert(folder)
    np.testing.assert_array_equal(again.array, first.array)
    np.testing.assert_allclose(again.affine, first.affine, atol=1e-5)
    assert {path.name[-7:] for path in (tmp_path / "cache/converted").iterdir()} == {".nii.gz", "gz.lock"}


def test_values_that_are_no_integers_come_back_to_the_bit(tmp_path):
    folder = write_series(tmp_path / "s", RescaleSlope=0.37)
    first = convert(folder)
    np.testing.assert_array_equal(convert(folder).array, first.array)
    np.testing.assert_allclose(first.array[:, :, 1], 0.37 * stored(1).T - 1024, rtol=1e-6)


def test_changed_files_are_converted_anew(tmp_path):
    folder = write_series(tmp_path / "s")
    convert(folder)
    write_slice(folder / "2.dcm", 2, PixelData=stored(7).tobytes())
    np.testing.assert_array_equal(convert(folder).array[:, :, 2], 2.0 * stored(7).T - 1024)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:60], lambda b: b"", lambda b: b[:-5] + b"xxxxx"])
def test_a_damaged_conversion_is_made_again(tmp_path, capsys, damage):
    folder = write_series(tmp_path / "s")
    convert(folder)
    (kept,) = (tmp_path / "cache/converted").glob("*.nii.gz")
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    np.testing.assert_array_equal(convert(folder).array, VOLUME)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(kept) in line and "converted again" in line
    np.testing.assert_array_equal(convert(folder).array, VOLUME)


def test_several_may_convert_at_the_same_time(tmp_path):
    folder = write_series(tmp_path / "s")
    found = []
    threads = [threading.Thread(target=lambda: found.append(convert(folder).array)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all((array == VOLUME).all() for array in found)


def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path):
    folder = write_series(tmp_path / "s")
    convert(folder)
    (kept,) = (tmp_path / "cache/converted").glob("*.nii.gz")
    kept.unlink()
    (kept.with_name(f".unfinished-{kept.name}") / "in").mkdir(parents=True)
    np.testing.assert_array_equal(convert(folder).array, VOLUME)
    assert not kept.with_name(f".unfinished-{kept.name}").exists()


def test_the_source_is_only_read(tmp_path):
    folder = write_series(tmp_path / "s")
    for path in (*folder.iterdir(), folder):
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    try:
        convert(folder)
        assert before == {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    finally:
        folder.chmod(0o755)


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    folder = write_series(tmp_path / "s")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match="cannot be written to"):
        convert(folder)


@pytest.mark.parametrize(
    ("key", "intercept"), [("RescaleSlope", -1024), ("RescaleIntercept", 0), ("NumberOfFrames", -1024)]
)
def test_an_empty_element_counts_as_an_absent_one(tmp_path, capsys, key, intercept):
    volume = convert(write_series(tmp_path / "s", **({"RescaleSlope": 1} | {key: ""})))
    np.testing.assert_array_equal(volume.array[:, :, 1], stored(1).T + float(intercept))
    told = capsys.readouterr().err
    assert ("5 of 5 slices do not say RescaleIntercept" in told) == (key == "RescaleIntercept")


def test_each_slice_has_its_own_rescaling(tmp_path):
    for k in range(SLICES):
        write_slice(tmp_path / f"s/{k}", k, RescaleSlope=k + 1, RescaleIntercept=-k, Modality="PT")
    array = convert(tmp_path / "s").array
    for k in range(SLICES):
        np.testing.assert_array_equal(array[:, :, k], stored(k).T * (k + 1.0) - k)


def test_a_series_that_is_no_stack_is_refused_in_one_line(tmp_path):
    folder = write_series(tmp_path / "s", 12)
    (folder / "6.dcm").unlink()
    (series,) = find_series(folder)
    with pytest.raises(DataError, match="11 of 12 slices, 1 missing at 2.5 mm") as raised:
        dicom_convert.read(series, tmp_path / "cache")
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"PixelData": b"\0\0"}, "2 bytes of pixels, the header claims 96: cut short"),
        ({"PixelData": None}, "no pixels in it"),
        ({"Rows": 60000, "Columns": 60000}, "60000x60000x5 voxels, more than"),
        ({"BitsAllocated": 7}, "cannot be decoded"),
        ({"PixelData": bytes(2 * ROWS * COLUMNS)}, "every voxel is -1024"),
        ({"RescaleSlope": [1, 2]}, "RescaleSlope is"),
    ],
)
def test_damaged_slices_are_one_line(tmp_path, changes, expected):
    folder = write_series(tmp_path / "s", **changes)
    with pytest.raises(DataError, match=expected) as raised:
        convert(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_files_that_vanish_are_one_line(tmp_path):
    (series,) = find_series(write_series(tmp_path / "s"))
    (tmp_path / "s/2.dcm").unlink()
    with pytest.raises(DataError, match=r"2\.dcm: cannot be read"):
        dicom_convert.read(series, tmp_path / "cache")


def test_more_pixels_than_the_header_says_are_passed_over(tmp_path):
    for k in range(SLICES):
        write_slice(tmp_path / f"s/{k}", k, PixelData=stored(k).tobytes() + bytes(20))
    np.testing.assert_array_equal(convert(tmp_path / "s").array, VOLUME)


def test_nothing_is_run_for_pixels_that_pydicom_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("runs a program"))
    np.testing.assert_array_equal(convert(write_series(tmp_path / "s")).array, VOLUME)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_bytes_are_a_line_and_never_a_traceback(tmp_path, seed):
    write_series(tmp_path / "s", PixelPaddingValue=-2000)
    rng = random.Random(seed)
    content = bytearray((tmp_path / "s/2.dcm").read_bytes())
    for _ in range(rng.choice([1, 4, 16])):
        content[rng.randrange(128, len(content) - 2 * ROWS * COLUMNS)] = rng.randrange(256)
    (tmp_path / "s/2.dcm").write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
    for series in find_series(tmp_path / "s"):
        assert str(tmp_path / "s") in series.name and "\n" not in series.name + series.reason
        if series.status == "use":
            try:
                assert dicom_convert.read(series, tmp_path / "cache").array.shape[2] == series.slices
            except DataError as error:
                assert str(tmp_path / "s") in str(error)
        else:
            assert series.reason
