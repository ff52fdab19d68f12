"""Where a header places its voxels; SimpleITK is asked besides, where its rule is the same."""

import gzip
import io

import nibabel as nib
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.notices import Kind

ARRAY = np.random.default_rng(0).normal(100, 30, (5, 6, 7)).astype(np.float32)
PLACE = np.array([[2, 0, 0, -5], [0, 2, 0, -6], [0, 0, 3, -7], [0, 0, 0, 1]], np.float64)
MIRRORED = {"srow_x": [-2, 0, 0, 5]}
NO_SFORM = {"srow_x": [0] * 4, "srow_y": [0] * 4, "srow_z": [0] * 4}


def save(path, array=ARRAY, affine=PLACE, kind=nib.Nifti1Image, **fields):
    """Writes a file whose sform and qform, both of code 1, are `affine`, then overwrites fields of the header."""
    image = kind(array, None)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    content = image.to_bytes()
    size = image.header.structarr.dtype.itemsize
    header = type(image.header)(content[:size], check=False)
    for key, value in fields.items():
        header[key] = value
    path.write_bytes(header.binaryblock + content[size:])
    return path


def by_itk(path):
    """The affine and the values that SimpleITK reads."""
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine, sitk.GetArrayFromImage(image).T


def kinds(volume):
    return [notice.kind for notice in volume.notices]


SAME_IN_ITK = {
    "both": ({}, PLACE, []),
    "sform and qform disagree": (MIRRORED, [[-2, 0, 0, 5], *PLACE[1:]], [Kind.DISAGREE]),
    "no qform": ({"qform_code": 0}, PLACE, []),
    "no sform": ({"sform_code": 0}, PLACE, []),
    "an sform of zeros": (NO_SFORM, PLACE, [Kind.SFORM_UNUSABLE]),
    "a code below 0": ({"sform_code": -1} | MIRRORED, PLACE, []),
    "qfac 0": (
        {"sform_code": 0, "pixdim": [0, 2, 2, 3, 0, 0, 0, 0], "quatern_c": 1},
        [[-2, 0, 0, -5], [0, 2, 0, -6], [0, 0, -3, -7], [0, 0, 0, 1]],
        [],
    ),
    "qfac -1": (
        {"sform_code": 0, "pixdim": [-1, 2, 2, 3, 0, 0, 0, 0]},
        [[2, 0, 0, -5], [0, 2, 0, -6], [0, 0, -3, -7], [0, 0, 0, 1]],
        [],
    ),
    "a quaternion rounded to more than 1": (
        {"sform_code": 0, "quatern_b": 0.8, "quatern_c": 0.60001},
        [[0.56, 1.92, 0, -5], [1.92, -0.56, 0, -6], [0, 0, -3, -7], [0, 0, 0, 1]],
        [],
    ),
    "a quaternion far too long": (
        {"sform_code": 0, "quatern_b": 0.9, "quatern_c": 0.9},
        [[0, 2, 0, -5], [2, 0, 0, -6], [0, 0, -3, -7], [0, 0, 0, 1]],
        [Kind.QUATERNION],
    ),
}
OUR_OWN = {
    "neither": (
        {"sform_code": 0, "qform_code": 0},
        [[-2, 0, 0, 4], [0, 2, 0, -5], [0, 0, 3, -9], [0, 0, 0, 1]],
        [Kind.UNPLACED],
    ),
    "an sform of zeros alone": (
        {"qform_code": 0} | NO_SFORM,
        [[-2, 0, 0, 4], [0, 2, 0, -5], [0, 0, 3, -9], [0, 0, 0, 1]],
        [Kind.UNPLACED],
    ),
    "an sform of another space": (
        {"sform_code": 4} | MIRRORED,
        [[-2, 0, 0, 5], *PLACE[1:]],
        [Kind.DISAGREE],
    ),
    "pixdim 0": ({"pixdim": [1, 0, 0, 0, 0, 0, 0, 0]}, PLACE, [Kind.PIXDIM]),
    "pixdim NaN": ({"pixdim": [1, np.nan, 2, 3, 0, 0, 0, 0]}, PLACE, [Kind.PIXDIM]),
    "pixdim of other voxels": ({"pixdim": [1, 1, 1, 1, 0, 0, 0, 0], "qform_code": 0}, PLACE, [Kind.PIXDIM]),
    "pixdim below 0": ({"pixdim": [1, -2, 2, 3, 0, 0, 0, 0]}, PLACE, []),
    "pixdim below 0, no sform": ({"pixdim": [1, -2, 2, 3, 0, 0, 0, 0], "sform_code": 0}, PLACE, [Kind.NEGATIVE]),
    "a damaged sform": ({"srow_y": [0, np.nan, 0, 0]}, PLACE, [Kind.SFORM_UNUSABLE]),
    "a flat sform": ({"srow_y": [2, 0, 0, 0]}, PLACE, [Kind.SFORM_UNUSABLE]),
    "a damaged qform": ({"quatern_b": np.nan}, PLACE, []),
    "an infinite quaternion": ({"quatern_b": np.inf}, PLACE, []),
}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", [*SAME_IN_ITK, *OUR_OWN])
def test_voxels_are_placed_by_sform_then_qform_then_their_sizes(tmp_path, name, kind):
    fields, expected, noted = (SAME_IN_ITK | OUR_OWN)[name]
    volume = nifti.read(save(tmp_path / "a.nii", kind=kind, **fields))
    np.testing.assert_allclose(volume.affine, expected, atol=1e-4)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert kinds(volume) == noted
    seen = nifti.look(tmp_path / "a.nii")
    np.testing.assert_array_equal(seen.affine, volume.affine)
    assert seen.notices == volume.notices
    if name in SAME_IN_ITK and kind is nib.Nifti1Image:  # ITK reads no NIfTI-2
        affine, array = by_itk(tmp_path / "a.nii")
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
        np.testing.assert_array_equal(volume.array, array)


@pytest.mark.parametrize("name", ["both", "sform and qform disagree", "no qform", "no sform", "qfac 0", "qfac -1"])
def test_nibabel_places_voxels_alike(tmp_path, name):
    path = save(tmp_path / "a.nii", **SAME_IN_ITK[name][0])
    np.testing.assert_allclose(nifti.look(path).affine, nib.load(path).affine, atol=1e-6)
    path = save(tmp_path / "a.nii", **OUR_OWN["neither"][0])
    np.testing.assert_array_equal(nifti.look(path).affine, nib.load(path).affine)


@pytest.mark.parametrize("degrees", [0.01, 33, 90, 179.9, 180])
def test_a_header_that_agrees_with_itself_is_not_told_to_disagree(tmp_path, degrees):
    turn = nib.eulerangles.euler2mat(np.radians(degrees), 0.2, -0.4)
    affine = np.eye(4)
    affine[:3, :3] = turn * [0.7, 0.7, 1.25]
    affine[:3, 3] = [180.123, -200.7, 33]
    large = np.zeros((512, 2, 2), np.uint8)
    assert nifti.look(save(tmp_path / "a.nii", large, affine)).notices == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"srow_z": [0, 1, 0, 0], "qform_code": 0}, "affine is singular or not finite; set a valid sform or qform"),
        ({"sform_code": 0, "quatern_b": np.nan}, "affine is singular or not finite"),
        ({"sform_code": 0, "pixdim": [1, 2, 0, 3, 0, 0, 0, 0]}, r"voxel sizes \[2.0, 0.0, 3.0\]; set its pixdim"),
        ({"qform_code": 0, "sform_code": 0, "pixdim": [1, 2, np.inf, 3, 0, 0, 0, 0]}, "voxel sizes"),
        ({"dim": [3, 5, 0, 7, 1, 1, 1, 1]}, r"dim is \[3, 5, 0, 7"),
        ({"dim": [0, 5, 6, 7, 1, 1, 1, 1]}, r"dim\[0\] is not 1 to 7"),
        ({"datatype": 77}, "datatype 77"),
        ({"datatype": 1}, "datatype 1 "),
        ({"vox_offset": 0}, "vox_offset is 0, its header has 348 bytes"),
        ({"vox_offset": np.nan}, "vox_offset is nan"),
    ],
)
def test_a_header_that_says_too_little_is_refused_in_one_line(tmp_path, fields, expected):
    path = save(tmp_path / "a.nii", **fields)
    for function in (nifti.look, nifti.read):
        with pytest.raises(DataError, match=expected) as raised:
            function(path)
        assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


def test_lengths_of_0_beyond_the_third_axis_count_as_1(tmp_path):
    path = save(tmp_path / "a.nii", dim=[4, 5, 6, 7, 0, 1, 1, 1])
    assert nifti.look(path).shape == (5, 6, 7, 1)
    np.testing.assert_array_equal(nifti.read(path).array, ARRAY)


@pytest.mark.parametrize("code", [0, 2, 10])
def test_millimetres_and_no_unit_are_millimetres(tmp_path, code):
    volume = nifti.read(save(tmp_path / "a.nii", xyzt_units=code))
    np.testing.assert_array_equal(volume.affine, PLACE)
    assert volume.notices == ()


def test_a_unit_that_there_is_not_is_taken_for_millimetres_and_noted(tmp_path):
    volume = nifti.read(save(tmp_path / "a.nii", xyzt_units=4))
    np.testing.assert_array_equal(volume.affine, PLACE)
    assert kinds(volume) == [Kind.UNIT] and volume.notices[0].detail == "code 4"


@pytest.mark.parametrize(("code", "factor"), [(3, 1e3), (3 + 8, 1e3), (1, 1e-3)])
def test_micron_and_metre_become_millimetres_as_in_itk(tmp_path, code, factor):
    affine = np.diag([factor, factor, factor, 1]) @ PLACE
    volume = nifti.read(save(tmp_path / "a.nii", affine=affine, xyzt_units=code))
    np.testing.assert_allclose(volume.affine, PLACE, rtol=1e-6)
    np.testing.assert_allclose(by_itk(tmp_path / "a.nii")[0], PLACE, rtol=1e-5)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            3,
            "voxels of 0.002 x 0.002 x 0.003 mm, not 0.01 to 100, with the unit micron .xyzt_units 3.; set xyzt_units to 2",
        ),
        (1, "voxels of 2000 x 2000 x 3000 mm, not 0.01 to 100, with the unit metre .xyzt_units 1."),
    ],
)
def test_a_unit_that_cannot_be_meant_is_refused_by_name(tmp_path, code, expected):
    path = save(tmp_path / "a.nii", xyzt_units=code)
    for function in (nifti.look, nifti.read):
        with pytest.raises(DataError, match=expected):
            function(path)


@pytest.mark.parametrize(("edge", "fine"), [(0.01, True), (0.009, False), (100.0, True), (101.0, False)])
def test_the_least_and_the_largest_voxels(tmp_path, edge, fine):
    path = save(tmp_path / "a.nii", affine=np.diag([edge, 1, 1, 1]))
    if fine:
        assert nifti.look(path).spacing[0] == pytest.approx(edge)
    else:
        with pytest.raises(DataError, match="with the unit none .xyzt_units 0."):
            nifti.look(path)


@pytest.mark.parametrize(
    ("slope", "intercept", "expected", "noted"),
    [
        (0.5, -10, ARRAY * 0.5 - 10, []),
        (-2, 3, ARRAY * -2.0 + 3, []),
        (0, 5, ARRAY, []),
        (np.nan, 5, ARRAY, []),
        (np.nan, np.nan, ARRAY, []),
        (np.inf, 5, ARRAY, [Kind.SCALING]),
        (2, np.nan, ARRAY, [Kind.SCALING]),
        (2, np.inf, ARRAY, [Kind.SCALING]),
    ],
)
def test_scaling_is_applied_where_it_is_a_number(tmp_path, slope, intercept, expected, noted):
    volume = nifti.read(save(tmp_path / "a.nii", scl_slope=slope, scl_inter=intercept))
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    assert kinds(volume) == noted


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"])
def test_every_type_of_numbers_in_either_byte_order(tmp_path, dtype, kind, endianness):
    stored = np.arange(210).reshape(5, 6, 7).astype(dtype)
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(dtype)
    image = kind(stored, PLACE, header)
    image.set_data_dtype(dtype)
    content = image.to_bytes()
    assert content[0] == {"<": header.structarr["sizeof_hdr"] % 256, ">": 0}[endianness]
    (tmp_path / "a.nii").write_bytes(content)
    volume = nifti.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(volume.array, stored)
    np.testing.assert_array_equal(volume.affine, PLACE)
    assert volume.array.dtype == np.float32 and volume.array.dtype.isnative


@pytest.mark.parametrize("dtype", ["int16", "int32", "float64"])
def test_scaled_values_are_those_of_nibabel_to_the_bit(tmp_path, dtype):
    image = nib.Nifti1Image((ARRAY * 123.4567).astype(dtype), PLACE)
    image.header.set_slope_inter(0.1, -1024.3)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    np.testing.assert_array_equal(
        nifti.read(tmp_path / "a.nii").array, nib.load(tmp_path / "a.nii").get_fdata().astype(np.float32)
    )


def test_colours_are_refused_in_one_line_and_looked_at(tmp_path):
    colours = np.zeros((5, 6, 7), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    path = save(tmp_path / "a.nii", colours)
    assert nifti.look(path).dtype == colours.dtype
    with pytest.raises(DataError, match=r"holds colours \(RGB\) values; convert it to a scalar NIfTI volume"):
        nifti.read(path)


def test_a_long_extension_is_passed_over(tmp_path):
    image = nib.Nifti1Image(ARRAY, PLACE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    assert nifti.look(tmp_path / "a.nii").offset > 5000
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii").array, ARRAY)


def test_a_look_says_what_a_file_holds_without_its_voxels(tmp_path):
    image = nib.Nifti1Image(np.zeros((5, 6, 7, 3), np.int16), PLACE @ np.diag([-1, 1, 1, 1]))
    image.header.set_intent("label", name="parts")
    image.header.set_slope_inter(2, 1)
    image.header["descrip"] = b"by hand"
    content = image.to_bytes()
    (tmp_path / "a.nii").write_bytes(content)
    seen = nifti.look(tmp_path / "a.nii")
    assert (seen.shape, seen.orientation, seen.dtype) == ((5, 6, 7, 3), "LAS", np.int16)
    assert (seen.intent, seen.description, seen.scaled, seen.scaling) == ("label", "by hand", True, (2, 1))
    np.testing.assert_array_equal(seen.spacing, [2, 2, 3])
    with pytest.raises(DataError, match="4D of shape"):
        nifti.read(tmp_path / "a.nii")


def test_a_look_reads_a_few_kilobytes(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32))
    whole = path.read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(whole))
    read = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            content = super().read(size)
            read.append(len(content))
            return content

    monkeypatch.setattr("builtins.open", lambda path, *args, **kwargs: Counted(path))
    for name in ("a.nii", "a.nii.gz"):
        read.clear()
        assert nifti.look(tmp_path / name).shape == (64, 64, 64)
        assert 0 < sum(read) <= 4096


def test_surfaces_are_refused_in_one_line(tmp_path):
    with pytest.raises(DataError, match="CIFTI, values on a surface"):
        nifti.look(save(tmp_path / "a.nii", kind=nib.Nifti2Image, intent_code=3001))
