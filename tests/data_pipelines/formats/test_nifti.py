import errno
import gzip

import nibabel as nib
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume

OBLIQUE = np.array([[0.8, -0.3, 0.1, -20.0], [0.35, 0.9, -0.2, 31.5], [0.0, 0.2, 2.4, 7.25], [0, 0, 0, 1]])


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, (5, 6, 7)).astype(np.float32)


def save(path, array, **header):
    """Writes a file by nibabel, then overwrites fields of its header."""
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    if header:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:
            content = file.read()
        changed = nib.Nifti1Header(content[:348], check=False)
        for key, value in header.items():
            changed[key] = value
        with opened(path, "wb") as file:
            file.write(changed.binaryblock + content[348:])
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_float32_comes_back_to_the_bit(tmp_path, array, suffix):
    nifti.write(tmp_path / f"a{suffix}", Volume(array, OBLIQUE, "padded"))
    back = nifti.read(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(back.array, array)
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-6)
    np.testing.assert_allclose(back.spacing, np.linalg.norm(OBLIQUE[:3, :3], axis=0), atol=1e-6)
    assert back.array.dtype == np.float32 and back.affine.dtype == np.float64 and back.description == "padded"
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


@pytest.mark.parametrize("value", [600.0, np.nan])
def test_volumes_that_are_no_scans_are_read_only_where_that_is_asked_for(tmp_path, array, value):
    drawn = np.full_like(array, value)
    nifti.write(tmp_path / "a.nii.gz", Volume(drawn, OBLIQUE))
    np.testing.assert_array_equal(nifti.read_unchecked(tmp_path / "a.nii.gz").array, drawn)
    with pytest.raises(DataError, match="every voxel is 600|210 of 210 voxels are NaN"):
        nifti.read(tmp_path / "a.nii.gz")


def test_int16_comes_back_to_half_a_step(tmp_path, array):
    nifti.write(tmp_path / "a.nii.gz", Volume(array / 1000, OBLIQUE), np.int16)
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == np.int16
    step = (array.max() - array.min()) / 1000 / 2**16
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii.gz").array, array / 1000, rtol=0, atol=0.51 * step + 1e-8)


def test_any_reader_places_the_volume(tmp_path, array):
    rigid = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])
    nifti.write(tmp_path / "a.nii", Volume(array, rigid))
    header = nib.load(tmp_path / "a.nii").header
    for code, matrix in (("sform_code", header.get_sform()), ("qform_code", header.get_qform())):
        assert header[code] == 1
        np.testing.assert_allclose(matrix, rigid, atol=1e-5)
    assert header.get_xyzt_units()[0] == "mm"


def test_scaling_is_applied(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").array, stored * 0.5 - 10)


def test_units_become_millimetres(tmp_path, array):
    image = nib.Nifti1Image(array, np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").spacing, [1, 1, 2], rtol=1e-6)


def test_one_volume_in_4d_is_a_volume(tmp_path, array):
    save(tmp_path / "a.nii", array[..., None, None])
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii").array, array)


def test_spacing_alone_places_a_volume(tmp_path, array):
    image = nib.Nifti1Image(array, None)
    image.header.set_zooms((1, 2, 3))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(nifti.read(tmp_path / "a.nii").spacing, [1, 2, 3])


def with_value(array, value):
    array = array.copy()
    array[1, 2, 3] = value
    return array


def bad_files(array):
    yield "2D", lambda path: save(path, array[0]), "not a 3D volume"
    yield "one slice", lambda path: save(path, array[..., :1]), "not a 3D volume"
    yield "4D", lambda path: save(path, np.stack([array, array], -1)), "4D of shape"
    yield "NaN", lambda path: save(path, with_value(array, np.nan)), "1 of 210 voxels"
    yield "infinite", lambda path: save(path, with_value(array, -np.inf)), "1 of 210 voxels"
    yield "constant", lambda path: save(path, np.full_like(array, 7)), "every voxel is 7"
    yield "complex", lambda path: save(path, array.astype(np.complex64)), "complex64"
    yield "singular", lambda path: save(path, array, srow_z=[0, 1, 0, 0]), "affine is singular"
    yield "flat", lambda path: save(path, array, srow_x=[1e20, 1e20, 0, 0], srow_y=[1, 2, 0, 0]), "affine is singular"
    yield "lost", lambda path: save(path, array, srow_x=[1, 0, 0, np.nan]), "affine is singular or not finite"
    yield "text", lambda path: path.write_bytes(gzip.compress(b"no scan" * 100)), "not a readable NIfTI"
    yield "empty", lambda path: path.write_bytes(b""), "the file is empty"
    yield "not zipped", lambda path: path.write_bytes(b"\x00" * 400), "not a readable NIfTI"


@pytest.mark.filterwarnings("ignore:Extension size")
@pytest.mark.parametrize("case", [case[0] for case in bad_files(np.zeros((5, 6, 7)))])
def test_what_cannot_be_used_is_named_in_one_line(tmp_path, array, case):
    make, expected = next((make, expected) for name, make, expected in bad_files(array) if name == case)
    path = tmp_path / "scan.nii.gz"
    make(path)
    with pytest.raises(DataError) as raised:
        nifti.read(path)
    assert str(path) in str(raised.value) and expected in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.05])
def test_truncated_gzip_is_named(tmp_path, kept):
    noise = np.random.default_rng(0).integers(0, 1000, (20, 20, 20)).astype(np.int16)
    whole = save(tmp_path / "whole.nii.gz", noise).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(DataError, match=r"cut\.nii\.gz: damaged gzip .the gzip stream is cut short"):
        nifti.read(tmp_path / "cut.nii.gz")


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_no_usable_spacing(tmp_path, array, value):
    save(tmp_path / "a.nii", array, sform_code=0, pixdim=[1, 1, value, 1, 0, 0, 0, 0])
    with pytest.raises(DataError, match="voxel sizes"):
        nifti.read(tmp_path / "a.nii")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        nifti.read(tmp_path / "a.nii")


def test_full_disk_leaves_the_old_file_and_no_other(tmp_path, array, monkeypatch):
    path = tmp_path / "a.nii.gz"
    nifti.write(path, Volume(array, np.eye(4)))
    before = path.read_bytes()

    def half(image, name):
        name.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises(DataError, match="no space left") as raised:
        nifti.write(path, Volume(2 * array, np.eye(4)))
    assert str(tmp_path) in str(raised.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_memory_map_and_header(tmp_path, array):
    nifti.write(tmp_path / "a.nii", Volume(array, OBLIQUE, "padded with air"))
    mapped = nifti.memory_map(tmp_path / "a.nii")
    assert isinstance(mapped, np.memmap) and mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped, array)
    stored = np.frombuffer((tmp_path / "a.nii").read_bytes()[nifti.HEADER_BYTES :], "<f4")
    np.testing.assert_array_equal(stored, array.ravel(order="F"))
    affine, description = nifti.read_header(tmp_path / "a.nii")
    np.testing.assert_allclose(affine, OBLIQUE, atol=1e-6)
    assert description == "padded with air"
