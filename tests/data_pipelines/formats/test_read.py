"""One way to read a file of any format; nibabel's own test images are read as SimpleITK reads them, or refused."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats import nifti, read
from data_pipelines.notices import Kind
from test_headers import by_itk

ARRAY = np.random.default_rng(0).integers(1, 1000, (5, 6, 7)).astype(np.int16)
PLACE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])
IMAGES = Path(nib.__file__).parent / "tests" / "data"


def kinds(volume):
    return [notice.kind for notice in volume.notices]


def pair(folder, kind, **fields):
    """Writes a.hdr and a.img, then overwrites fields of the header."""
    image = kind(ARRAY, np.diag([-2, 2, 3, 1]) if kind is not nib.Nifti1Pair else PLACE)
    image.to_filename(folder / "a.hdr")
    (folder / "a.mat").unlink(missing_ok=True)  # as SPM's writer leaves one
    if fields:
        with (folder / "a.hdr").open("rb") as file:
            header = type(image.header).from_fileobj(file, check=False)
        for key, value in fields.items():
            header[key] = value
        (folder / "a.hdr").write_bytes(header.binaryblock)
    return folder / "a.hdr"


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("name", ["a.hdr", "a.img"])
def test_either_file_of_a_pair_stands_for_it(tmp_path, kind, name):
    nib.save(kind(ARRAY, PLACE), tmp_path / "a.hdr")
    volume = read.read(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.affine, PLACE)
    assert kinds(volume) == []
    assert read.look(tmp_path / name).voxels == tmp_path / "a.img"


@pytest.mark.parametrize("zipped", [("a.img",), ("a.hdr", "a.img")])
def test_files_of_a_pair_may_be_gzipped_or_in_capitals(tmp_path, zipped):
    nib.save(nib.Nifti1Pair(ARRAY, PLACE), tmp_path / "a.hdr")
    for name in zipped:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
        (tmp_path / name).unlink()
    header = next(path for path in tmp_path.iterdir() if path.name.startswith("a.hdr"))
    np.testing.assert_array_equal(read.read(header).array, ARRAY)
    assert [path.name for path in tmp_path.iterdir() if read.is_image(path)] == [header.name]
    values = next(path for path in tmp_path.iterdir() if path.name.startswith("a.img"))
    header.rename(tmp_path / "A.HDR")
    values.rename(tmp_path / f"A.IMG{'.gz' * values.name.endswith('.gz')}")
    assert kinds(read.read(tmp_path / "A.HDR")) in ([], [Kind.SUFFIX])


def test_a_pair_that_is_not_whole_is_refused(tmp_path):
    nib.save(nib.Nifti1Pair(ARRAY, PLACE), tmp_path / "a.hdr")
    content = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(content[:-1])
    with pytest.raises(DataError, match="a.img: the header claims 420 bytes, 419 are there"):
        read.look(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(
        DataError, match="a.hdr: the header of a pair, and the voxels, NAME.img beside NAME.hdr, are missing"
    ):
        read.look(tmp_path / "a.hdr")
    assert read.is_image(tmp_path / "a.hdr")
    pair(tmp_path, nib.AnalyzeImage)
    (tmp_path / "a.img").unlink()
    with pytest.raises(DataError, match="a.hdr: its voxels are missing, a.img"):
        read.look(tmp_path / "a.hdr")


@pytest.mark.parametrize("kind", [nib.AnalyzeImage, nib.Spm99AnalyzeImage, nib.Spm2AnalyzeImage])
def test_analyze_has_no_directions_and_says_so(tmp_path, kind):
    volume = read.read(pair(tmp_path, kind))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.spacing, [2, 2, 3])
    assert read.look(tmp_path / "a.img").orientation == "LAS"
    np.testing.assert_allclose(volume.affine, nib.load(tmp_path / "a.hdr").affine)
    assert kinds(volume) == [Kind.ANALYZE]
    assert read.look(tmp_path / "a.hdr").notices == volume.notices


def test_the_origin_and_the_scaling_of_spm_are_used(tmp_path):
    path = pair(tmp_path, nib.Spm2AnalyzeImage, origin=[2, 3, 4, 0, 0], scl_slope=0.5, scl_inter=-3)
    volume = read.read(path)
    np.testing.assert_array_equal(volume.array, ARRAY * 0.5 - 3)
    np.testing.assert_array_equal(volume.affine, [[-2, 0, 0, 2], [0, 2, 0, -4], [0, 0, 3, -9], [0, 0, 0, 1]])


def test_the_mat_file_of_spm_places_an_analyze_pair(tmp_path):
    nib.Spm99AnalyzeImage(ARRAY, PLACE).to_filename(tmp_path / "a.hdr")
    assert (tmp_path / "a.mat").exists()
    volume = read.read(tmp_path / "a.hdr")
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
    assert kinds(volume) == []


def test_an_analyze_header_of_another_plane_is_noted(tmp_path):
    path = pair(tmp_path, nib.AnalyzeImage)
    content = bytearray(path.read_bytes())
    content[252] = 2
    path.write_bytes(content)
    assert kinds(read.look(path)) == [Kind.ANALYZE, Kind.ANALYZE_PLANE]


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_analyze_in_either_byte_order(tmp_path, endianness):
    header = nib.AnalyzeHeader(endianness=endianness)
    header.set_data_dtype(np.int16)
    nib.AnalyzeImage(ARRAY, np.diag([-2, 2, 3, 1]), header).to_filename(tmp_path / "a.hdr")
    assert read.look(tmp_path / "a.hdr").dtype == np.dtype(np.int16).newbyteorder(endianness)
    np.testing.assert_array_equal(read.read(tmp_path / "a.hdr").array, ARRAY)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pixdim": [1, 0, 2, 3, 0, 0, 0, 0]}, r"voxel sizes \[0.0, 2.0, 3.0\]"),
        ({"pixdim": [1, 2, 2, 3000, 0, 0, 0, 0]}, "voxels of 2 x 2 x 3000 mm, not 0.01 to 100, as its pixdim says"),
        ({"dim": [3, 500, 600, 700, 1, 1, 1, 1]}, "the header claims 420000000 bytes, 420 are there"),
        ({"datatype": 77}, "not a readable NIfTI file"),
    ],
)
def test_damaged_analyze_headers_are_refused(tmp_path, fields, expected):
    path = pair(tmp_path, nib.AnalyzeImage, **fields)
    with pytest.raises(DataError, match=expected) as raised:
        read.look(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["a.mgh", "a.mgz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_freesurfer_files(tmp_path, name, dtype):
    nib.save(nib.MGHImage((ARRAY % 200).astype(dtype), PLACE), tmp_path / name)
    volume = read.read(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY % 200)
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-6)
    assert volume.array.dtype == np.float32 and kinds(volume) == []
    seen = read.look(tmp_path / name)
    assert (seen.shape, seen.dtype) == ((5, 6, 7, 1), np.dtype(dtype).newbyteorder(">"))


def test_freesurfer_files_that_are_damaged_or_of_no_place(tmp_path):
    nib.save(nib.MGHImage(ARRAY, PLACE), tmp_path / "a.mgh")
    content = bytearray((tmp_path / "a.mgh").read_bytes())
    unplaced = content.copy()
    unplaced[28:30] = b"\0\0"
    (tmp_path / "a.mgh").write_bytes(unplaced)
    assert kinds(read.read(tmp_path / "a.mgh")) == [Kind.MGH_UNPLACED]
    np.testing.assert_array_equal(read.look(tmp_path / "a.mgh").affine, nib.load(tmp_path / "a.mgh").affine)
    (tmp_path / "a.mgz").write_bytes(content)
    assert kinds(read.read(tmp_path / "a.mgz")) == [Kind.SUFFIX]
    (tmp_path / "a.mgh").write_bytes(content[:600])
    with pytest.raises(DataError, match="the header claims 704 bytes, 600 are there"):
        read.read(tmp_path / "a.mgh")
    zipped = bytearray(gzip.compress(content))
    zipped[-6] ^= 1
    (tmp_path / "a.mgz").write_bytes(zipped)
    with pytest.raises(DataError, match="damaged gzip"):
        read.read(tmp_path / "a.mgz")
    for other in (
        b"",
        b"x" * 400,
        content[:20] + b"\0\0\0\x09" + content[24:],
        content[:30] + bytes(60) + content[90:],
    ):
        (tmp_path / "a.mgh").write_bytes(other)
        with pytest.raises(DataError) as raised:
            read.look(tmp_path / "a.mgh")
        assert str(tmp_path / "a.mgh") in str(raised.value) and "\n" not in str(raised.value)


def test_numpy_files_are_volumes_of_the_size_that_is_said(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY[..., None])
    volume = read.read(tmp_path / "a.npy", voxel_size=(1, 2, 3))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_array_equal(volume.affine, np.diag([1, 2, 3, 1]))
    seen = read.look(tmp_path / "a.npy", voxel_size=(1, 2, 3))
    assert (seen.shape, seen.dtype, tuple(seen.spacing)) == ((5, 6, 7, 1), np.int16, (1, 2, 3))


@pytest.mark.parametrize(
    ("name", "is_image", "stem"),
    [
        ("a.b.nii", True, "a.b"),
        ("a.NII.GZ", True, "a"),
        ("a.hdr", True, "a"),
        ("a.img", True, "a"),
        ("a.img.gz", True, "a"),
        ("a.mgz", True, "a"),
        ("a.MGH", True, "a"),
        ("a.npy", True, "a"),
        (".a.nii", False, ".a"),
        ("a.nrrd", False, "a"),
        ("a.txt", False, "a.txt"),
        ("nii", False, "nii"),
        ("a.gz", False, "a.gz"),
    ],
)
def test_names_of_images(tmp_path, name, is_image, stem):
    assert read.is_image(tmp_path / name) == is_image
    assert read.stem(tmp_path / name) == stem


def test_a_pair_is_one_image(tmp_path):
    pair(tmp_path, nib.Nifti1Pair)
    assert [path.name for path in sorted(tmp_path.iterdir()) if read.is_image(path)] == ["a.hdr"]


@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr", "a.MHA", "a.mhd", "a.mnc", "a.PAR"])
def test_other_formats_are_refused_with_the_command_that_converts(tmp_path, name):
    (tmp_path / name).write_bytes(b"NRRD0004\n")
    advice = read.advice(tmp_path / name)
    assert advice.startswith("convert it: ") and advice.endswith(f"{name} a.nii.gz")
    for function in (read.look, read.read):
        with pytest.raises(DataError) as raised:
            function(tmp_path / name)
        assert str(raised.value) == f"{tmp_path / name}: not a format that is read here; {advice}"
    assert read.advice(tmp_path / "a.nii") is None


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_the_command_that_converts_gives_the_same_volume(tmp_path, suffix):
    import subprocess
    import sys

    sitk = pytest.importorskip("SimpleITK")
    nifti.write(tmp_path / "whole.nii", nifti.Volume(ARRAY.astype(np.float32), PLACE))
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "whole.nii")), str(tmp_path / f"a{suffix}"))
    command = read.advice(tmp_path / f"a{suffix}").split("; ", 1)[1].replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    volume = read.read(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, PLACE, atol=1e-5)


@pytest.mark.parametrize(("nan", "value"), [(0.0, 0), (-1000.0, -1000), ("least", -7)])
@pytest.mark.parametrize("name", ["a.nii.gz", "a.npy"])
def test_nan_becomes_background_where_that_is_asked_for(tmp_path, name, nan, value):
    array = np.arange(-7, 203, dtype=np.float32).reshape(5, 6, 7)
    array[1:3] = np.nan
    if name == "a.npy":
        np.save(tmp_path / name, array)
    else:
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / name)
    volume = read.read(tmp_path / name, nan=nan)
    np.testing.assert_array_equal(volume.array, np.where(np.isnan(array), value, array))
    assert volume.array.dtype == np.float32
    assert kinds(volume) == [Kind.NAN] and volume.notices[0].detail == f"40.0% of the voxels, which become {value}"
    with pytest.raises(
        DataError, match="84 of 210 voxels are NaN or infinite; if NaN is the background, set data.nan_backg"
    ):
        read.read(tmp_path / name)
    with pytest.raises(DataError, match="40.0% of the voxels are NaN, at most 39%"):
        read.read(tmp_path / name, nan=nan, most_nan=0.39)
    array[0, 0, 0] = np.inf
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match="1 of 210 voxels are NaN or infinite; repair"):
        read.read(tmp_path / "a.npy", nan=nan)
    with pytest.raises(DataError, match="85 of 210 voxels are NaN or infinite; repair"):
        read.read(tmp_path / "a.npy")


def test_a_volume_of_nothing_but_nan_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.full((3, 4, 5), np.nan))
    for most_nan in (0.99, 1.0):
        with pytest.raises(DataError):
            read.read(tmp_path / "a.npy", nan="least", most_nan=most_nan)


def test_a_volume_without_nan_is_left_as_it_is(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    volume = read.read(tmp_path / "a.npy", nan=0.0)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.notices == ()


READ = {
    "anatomical.nii": [],
    "reoriented_anat_moved.nii": [],
    "standard.nii.gz": [],
}
REFUSED = {
    "analyze.hdr": "its voxels are missing, analyze.img",
    "nifti1.hdr": "the voxels, NAME.img beside NAME.hdr, are missing",
    "nifti2.hdr": "the voxels, NAME.img beside NAME.hdr, are missing",
    "example4d.nii.gz": r"4D of shape \(128, 96, 24, 2\)",
    "example_nifti2.nii.gz": r"4D of shape \(32, 20, 12, 2\)",
    "functional.nii": r"4D of shape \(17, 21, 3, 20\)",
    "resampled_anat_moved.nii": "153 of 1071 voxels are NaN or infinite; if NaN is the background",
    "row_major.dconn.nii": "CIFTI, values on a surface",
    "test.mgz": r"4D of shape \(3, 4, 5, 2\)",
    "tiny.mnc": "not a format that is read here; convert it",
    "T1.PAR": "not a format that is read here; convert it",
}


def test_all_of_nibabels_own_images_are_tried():
    there = {path.name for path in IMAGES.iterdir() if path.name.endswith((".nii", ".nii.gz", ".hdr", ".mgz", ".mgh"))}
    assert there <= set(READ) | set(REFUSED)


@pytest.mark.parametrize("name", READ)
def test_nibabels_own_images_are_read_as_itk_reads_them(name):
    volume = read.read(IMAGES / name)
    affine, array = by_itk(IMAGES / name)
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))
    np.testing.assert_allclose(volume.affine, affine, atol=1e-3)
    np.testing.assert_array_equal(volume.array, nib.load(IMAGES / name).get_fdata().astype(np.float32))
    assert kinds(volume) == READ[name]


@pytest.mark.parametrize("name", REFUSED)
def test_nibabels_other_images_are_refused_in_one_line(name):
    with pytest.raises(DataError, match=REFUSED[name]) as raised:
        read.read(IMAGES / name)
    assert str(raised.value).startswith(str(IMAGES / name)) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "orientation"),
    [("example4d.nii.gz", "LAS"), ("example_nifti2.nii.gz", "LAS"), ("functional.nii", "LAS"), ("test.mgz", "SAR")],
)
def test_series_can_be_looked_at(name, orientation):
    seen, image = read.look(IMAGES / name), nib.load(IMAGES / name)
    assert seen.shape == image.shape and seen.orientation == orientation
    np.testing.assert_allclose(seen.affine, image.affine, atol=1e-6)


def test_nan_background_makes_nibabels_resampled_image_readable():
    volume = read.read(IMAGES / "resampled_anat_moved.nii", nan=0.0)
    array = nib.load(IMAGES / "resampled_anat_moved.nii").get_fdata()
    np.testing.assert_array_equal(volume.array, np.nan_to_num(array).astype(np.float32))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.nii", nib.Nifti1Image),
        ("b.nii", nib.Nifti2Image),
        ("c.hdr", nib.Nifti1Pair),
        ("d.hdr", nib.Spm2AnalyzeImage),
        ("e.mgh", nib.MGHImage),
    ],
)
def test_any_damage_to_a_header_is_read_or_refused_in_one_line(tmp_path, name, kind):
    kind(ARRAY, np.diag([-2, 2, 2, 1])).to_filename(tmp_path / name)
    (tmp_path / name).with_suffix(".mat").unlink(missing_ok=True)
    content = (tmp_path / name).read_bytes()
    random, refused = np.random.default_rng(0), 0
    for _ in range(200):
        damaged = bytearray(content)
        start = random.integers(0, 92 if name == "e.mgh" else 348)
        damaged[start : start + 4] = (
            random.choice([0, 127, 128, 255, *random.integers(0, 256, 4)], 4).astype(np.uint8).data
        )
        (tmp_path / name).write_bytes(damaged)
        try:
            assert np.isfinite(read.read(tmp_path / name).array).all()
        except DataError as error:
            refused += 1
            assert str(error).startswith(str(tmp_path)) and "\n" not in str(error)
    assert 10 < refused < 190
