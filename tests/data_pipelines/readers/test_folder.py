import nibabel as nib
import numpy as np
import pytest

from case_of import case_of
from data_pipelines.errors import DataError
from data_pipelines.formats import affines, nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.notices import Kind
from data_pipelines.readers import folder
from data_pipelines.readers.folder import Preprocessing


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_scans_are_found_at_any_depth_and_grouped_by_subject(tmp_path):
    touch(tmp_path, "b.nii", "sub-01_ses-1_T1w.nii.gz", "sub-01_ses-2_T1w.nii.gz", "sub-02/ses-1/anat/x.nii.gz",
          "sub-02/ses-2/anat/x.nii", "notes.txt", ".hidden.nii.gz", "case_7.nii.gz")  # fmt: skip
    found = {scan.name: scan.subject for scan in folder.find_cases(tmp_path)}
    assert found == {
        "b.nii": "b",
        "case_7.nii.gz": "case_7",
        "sub-01_ses-1_T1w.nii.gz": "sub-01",
        "sub-01_ses-2_T1w.nii.gz": "sub-01",
        "sub-02/ses-1/anat/x.nii.gz": "sub-02",
        "sub-02/ses-2/anat/x.nii": "sub-02",
    }


def test_folders_without_scans(tmp_path):
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "other/a.dcm", "other/b.txt")
    for name, expected in (("missing", "does not exist"), ("empty", "is empty"), ("other", "2 files"),
                           ("other/a.dcm", "is a file")):  # fmt: skip
        with pytest.raises(DataError, match=expected) as raised:
            folder.find_cases(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


@pytest.fixture
def scan(tmp_path):
    """A bright cube on a noisy ground, stored left, posterior, superior with anisotropic voxels."""
    array = np.random.default_rng(0).normal(0, 10, (20, 24, 16)).astype(np.float32)
    array[12:16, 6:10, 4:8] = 500
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = [30, 40, -50]
    nifti.write(tmp_path / "scan.nii.gz", Volume(array, affine))
    return tmp_path / "scan.nii.gz"


def centre_of_cube(volume: Volume) -> np.ndarray:
    bright = np.argwhere(volume.array > 0.5).mean(0)
    return (volume.affine @ [*bright, 1])[:3]


EXPECTED = np.array([30 - 13.5, 40 - 15, -50 + 16.5])


@pytest.mark.parametrize("fit", ["crop", "resize"])
@pytest.mark.parametrize("spacing", [None, (1.5, 1.5, 1.5)])
@pytest.mark.parametrize("orientation", ["RAS", "native"])
@pytest.mark.parametrize("shape", [(16, 24, 20), (24, 32, 40)])
def test_tissue_stays_in_place(scan, shape, orientation, spacing, fit):
    volume = Preprocessing(shape, orientation, spacing, window_range=(0, 0.999), fit=fit)(case_of(scan))["image"]
    assert volume.array.shape == shape and volume.array.dtype == np.float32
    assert -1 <= volume.array.min() < -0.5 and 0.9 < volume.array.max() <= 1
    assert np.all(np.abs(centre_of_cube(volume) - EXPECTED) <= 0.51 * volume.spacing)
    if orientation == "RAS":
        assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    if spacing and fit == "crop":
        np.testing.assert_allclose(volume.spacing, 1.5, rtol=1e-6)


@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 16, 12)])
def test_cropped_to_the_brain(tmp_path, shape, margin):
    array = np.zeros((40, 36, 30), np.float32)
    array[5:29, 30:34, 1:13] = 700  # touches the border with a margin
    array[5, 30, 1] = 100
    affine = np.diag([-1.0, 1.0, 2.0, 1.0])
    nifti.write(tmp_path / "a.nii", Volume(array, affine))
    volume = Preprocessing(shape, "native", window_range=(0.0, 1.0), fit="brain", margin=margin)(
        case_of(tmp_path / "a.nii")
    )["image"]
    assert volume.array.shape == shape and volume.array.min() == -1
    # The box is centred, but where the margin ends at the scan's border, and fills the shape as far as its own goes.
    box = np.array([[5 - margin, max(30 - margin, 0), max(1 - margin, 0)],
                    [29 + margin, min(34 + margin, 36), 13 + margin]])  # fmt: skip
    scale = np.max((box[1] - box[0]) / shape)
    np.testing.assert_allclose(volume.spacing, np.ceil(scale * np.array(shape)) / shape * [1, 1, 2])
    centre = volume.affine @ [*((np.array(shape) - 1) / 2), 1]
    middle = affine @ [*(box.sum(axis=0) / 2 - 0.5), 1]
    assert np.all(np.abs(centre - middle)[:3] <= 0.5 * np.array([1, 1, 2]))
    bright = np.argwhere(volume.array > 0)
    tissue = affine @ [16.5, 31.5, 6.5, 1]
    np.testing.assert_allclose((volume.affine @ [*bright.mean(axis=0), 1])[:3], tissue[:3], atol=0.55 * scale * 2)


def test_no_brain(tmp_path):
    nifti.write(tmp_path / "a.nii", Volume(-np.arange(27.0).reshape(3, 3, 3), np.eye(4)))
    with pytest.raises(DataError, match="no voxel is above 0"):
        Preprocessing((4, 4, 4), fit="brain")(case_of(tmp_path / "a.nii"))


def test_npy_files_take_the_voxel_size_that_is_stated(tmp_path):
    array = np.random.default_rng(0).uniform(0, 10, (6, 5, 4))
    (tmp_path / "patient 1").mkdir()
    np.save(tmp_path / "patient 1/a.npy", array)
    np.save(tmp_path / "b.npy", array)
    assert {scan.name: scan.subject for scan in folder.find_cases(tmp_path)} == {
        "b.npy": "b", "patient 1/a.npy": "patient 1",
    }  # fmt: skip
    volume = Preprocessing((6, 5, 4), window="fixed", window_range=(0, 10), voxel_size=(0.5, 0.5, 3))(
        case_of(tmp_path / "b.npy")
    )["image"]
    np.testing.assert_allclose(volume.array, array / 5 - 1, atol=1e-6)
    np.testing.assert_array_equal(volume.affine, np.diag([0.5, 0.5, 3, 1]))


def test_fixed_window_is_the_same_for_every_scan(scan):
    volume = Preprocessing((20, 24, 16), "native", window="fixed", window_range=(-1000, 1000))(case_of(scan))["image"]
    np.testing.assert_allclose(volume.array[13, 7, 5], 0.5, atol=1e-6)


def test_no_contrast_in_the_window(scan):
    for window, low_high in (("fixed", (1000, 2000)), ("fixed", (-300, -200))):
        with pytest.raises(DataError, match="no contrast in the window"):
            Preprocessing((20, 24, 16), window=window, window_range=low_high)(case_of(scan))


def test_volumes_of_every_format_that_is_read_are_found_and_others_are_named(tmp_path, capsys):
    touch(tmp_path, "a.NII.GZ", "b.mgz", "c.hdr", "c.img", "d.nrrd", "e.mha", "f.txt")
    assert {case.name: case.subject for case in folder.find_cases(tmp_path)} == {
        "a.NII.GZ": "a",
        "b.mgz": "b",
        "c.hdr": "c",
    }
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 volumes are left out, such as d.nrrd: convert it: pip install SimpleITK" in line and "d.nii.gz" in line
    touch(tmp_path, "other/d.nrrd")
    with pytest.raises(DataError, match="1 files .*none .nii.*convert it.*WriteImage"):
        folder.find_cases(tmp_path / "other")


def test_nan_becomes_black_where_it_is_said_to_be_background(tmp_path):
    array = np.full((12, 12, 12), np.nan, np.float32)
    array[3:9, 3:9, 3:9] = np.random.default_rng(0).uniform(100, 200, (6, 6, 6))
    nifti.write(tmp_path / "a.nii", Volume(array, np.eye(4)))
    with pytest.raises(DataError, match="data.nan_background=True"):
        Preprocessing((12, 12, 12))(case_of(tmp_path / "a.nii"))
    volume = Preprocessing((12, 12, 12), window_range=(0.0, 1.0), nan_background=True)(case_of(tmp_path / "a.nii"))[
        "image"
    ]
    expected = (array - np.nanmin(array)) / (np.nanmax(array) - np.nanmin(array)) * 2 - 1
    np.testing.assert_allclose(volume.array, np.nan_to_num(expected, nan=-1.0), atol=1e-5)


def wave(world):
    """A smooth picture of the world [..., 3], in mm."""
    x, y, z = np.moveaxis(world, -1, 0)
    return 100 * (np.sin(x / 9) + np.cos(y / 11) + np.sin((z + y) / 13))


def at_voxels(affine, shape):
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("fit, spacing", [("crop", (1.0, 1.0, 1.0)), ("resize", None), ("resize", (2.0, 2.0, 2.0))])
@pytest.mark.parametrize("stored", [(2, 2, 3), (-2, -2, 3), (2, -2, -3)])
def test_sheared_voxels_come_to_lie_where_they_are_in_the_world(stored, fit, spacing, tmp_path):
    affine = np.diag([*stored, 1.0])
    affine[:, 2] = [0, 1.5, stored[2], 0]
    nifti.write(tmp_path / "a.nii", Volume(wave(at_voxels(affine, (24, 28, 20))).astype(np.float32), affine))
    volume = Preprocessing((40, 40, 48), spacing=spacing, fit=fit, window="fixed", window_range=(-300, 300))(
        case_of(tmp_path / "a.nii")
    )["image"]
    assert affines.shear(volume.affine) < 1e-6 and nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    assert [notice.kind for notice in volume.notices] == [Kind.SHEARED]
    if fit == "crop":
        np.testing.assert_allclose(volume.spacing, 1, rtol=1e-6)
    else:  # 24 rows of 2 mm; 20 slices 3 mm apart, not 3.354; 28 rows and 19 steps of 1.5 mm aside, to whole voxels
        np.testing.assert_allclose(volume.spacing * volume.array.shape, [48, 86, 60], atol=2.1)
    # Inside the source, some voxels from its faces, where what is beyond begins.
    at = at_voxels(np.linalg.inv(affine) @ volume.affine, volume.array.shape)
    inside = ((at > 5) & (at < np.array([24, 28, 20]) - 6)).all(axis=-1)
    assert inside.sum() > 2000
    expected = wave(at_voxels(volume.affine, volume.array.shape)) / 300
    np.testing.assert_allclose(volume.array[inside], expected[inside], atol=0.02)
    if fit == "resize":
        beyond = (at < -3).any(axis=-1)
        assert beyond.sum() > 5000
        np.testing.assert_allclose(volume.array[beyond], wave(at_voxels(affine, (24, 28, 20))).min() / 300, atol=0.03)


def test_sheared_voxels_that_are_only_cropped_stay_as_they_are(tmp_path):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[1, 2] = 1.5
    array = np.random.default_rng(0).uniform(0, 10, (8, 8, 8)).astype(np.float32)
    nifti.write(tmp_path / "a.nii", Volume(array, affine))
    volume = Preprocessing((8, 8, 8), window="fixed", window_range=(0, 10))(case_of(tmp_path / "a.nii"))["image"]
    np.testing.assert_allclose(volume.array, array / 5 - 1, atol=1e-6)
    np.testing.assert_array_equal(volume.affine, affine)


def test_shear_that_no_grid_can_hold_is_refused(tmp_path):
    affine = np.eye(4)
    affine[:2, 2] = 60, 60
    nifti.write(tmp_path / "a.nii", Volume(np.arange(2.0 * 2 * 600, dtype=np.float32).reshape(2, 2, 600), affine))
    with pytest.raises(DataError, match=r"a.nii: so sheared that 35942x35942x600 voxels are needed"):
        Preprocessing((4, 4, 4), fit="resize")(case_of(tmp_path / "a.nii"))
