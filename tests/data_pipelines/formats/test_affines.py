import nibabel as nib
import numpy as np
import pytest

from data_pipelines import transforms
from data_pipelines.formats import affines, nifti, read
from data_pipelines.formats.nifti import Volume
from data_pipelines.notices import Kind
from test_headers import by_itk

SHAPE = (6, 8, 10)
STRAIGHT = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])
# Slices 3 mm apart, each shifted by 1.5 mm along the second axis against the one below.
SLANTED = np.array([[2.0, 0, 0, -20], [0, 2, 1.5, 10], [0, 0, 3, 5], [0, 0, 0, 1]])


def centre(affine, shape=SHAPE):
    return affine @ [*((np.array(shape) - 1) / 2), 1]


def test_shear_is_the_largest_cosine_between_two_axes():
    assert affines.shear(STRAIGHT) < 1e-12
    assert affines.shear(SLANTED) == pytest.approx(1.5 / np.hypot(1.5, 3))
    assert affines.shear(np.diag([-1, 1, 1, 1]) @ SLANTED) == pytest.approx(1.5 / np.hypot(1.5, 3))


def test_spacing_of_a_sheared_voxel_is_along_its_slanted_edge():
    np.testing.assert_allclose(affines.spacing(SLANTED), [2, 2, np.hypot(1.5, 3)])
    np.testing.assert_allclose(affines.spacing(SLANTED), nib.affines.voxel_sizes(SLANTED))
    np.testing.assert_array_equal(Volume(np.zeros(SHAPE), SLANTED).spacing, affines.spacing(SLANTED))


@pytest.mark.parametrize("mirror", [1, -1])
def test_orthonormal_has_right_angles_the_same_edges_and_the_same_centre(mirror):
    sheared = SLANTED @ np.diag([mirror, 1, 1, 1])
    straight = affines.orthonormal(sheared, SHAPE)
    assert affines.shear(straight) < 1e-12
    np.testing.assert_allclose(affines.spacing(straight), affines.spacing(sheared))
    np.testing.assert_allclose(centre(straight), centre(sheared))
    assert np.sign(np.linalg.det(straight[:3, :3])) == mirror
    # The nearest: the qform that nibabel makes of it has the same directions.
    header = nib.Nifti1Header()
    header.set_qform(sheared, 1)
    np.testing.assert_allclose(straight[:3, :3], header.get_qform()[:3, :3], atol=1e-5)


def test_orthonormal_keeps_what_is_straight():
    np.testing.assert_allclose(affines.orthonormal(STRAIGHT, SHAPE), STRAIGHT, atol=1e-12)


def test_itk_opens_what_orthonormal_makes_and_refuses_what_it_was_made_of(tmp_path):
    array = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    nifti.write(tmp_path / "a.nii", Volume(array, affines.orthonormal(SLANTED, SHAPE)))
    affine, found = by_itk(tmp_path / "a.nii")
    np.testing.assert_array_equal(found, array)
    np.testing.assert_allclose(centre(affine), centre(SLANTED), atol=1e-4)
    nifti.write(tmp_path / "b.nii", Volume(array, SLANTED))
    notices = nifti.read(tmp_path / "b.nii").notices
    assert [notice.kind for notice in notices] == [Kind.SHEARED] and notices[0].detail == "a cosine of 0.447"


@pytest.mark.parametrize("shift", [1.5, -1.5])
@pytest.mark.parametrize("turn", [np.eye(4), np.diag([-1, 1, -1, 1]), STRAIGHT / [1.5, 2, 3, 1]])
def test_a_straight_grid_holds_all_voxels_at_the_distances_of_rows_and_slices(turn, shift):
    slanted = SLANTED.copy()
    slanted[1, 2] = shift
    sheared = turn @ slanted
    grid, shape = affines.straight_grid(sheared, SHAPE)
    assert affines.shear(grid) < 1e-12
    np.testing.assert_allclose(affines.spacing(grid), [2, 2, 3])
    assert shape == (6, 8 + 7, 10)  # 9 slices' shifts of 1.5 mm are 6.75 voxels
    corners = np.c_[np.array([*np.ndindex(2, 2, 2)]) * (np.array(SHAPE) - 1), np.ones(8)]
    reached = (corners @ np.linalg.solve(grid, sheared).T)[:, :3]
    assert (reached > -1e-9).all() and (reached < np.array(shape) - 1 + 1e-9).all()


def test_a_straight_grid_mends_shear():
    grid, shape = affines.straight_grid(SLANTED, (24, 24, 24))
    world = nib.affines.apply_affine(SLANTED, np.moveaxis(np.indices((24, 24, 24)), 0, -1))
    sheared = Volume(np.sin(world / 9).sum(axis=-1).astype(np.float32), SLANTED)
    straight = transforms.onto(sheared, Volume(np.zeros(shape, np.float32), grid), order=3)
    world = nib.affines.apply_affine(grid, np.moveaxis(np.indices(shape), 0, -1))
    expected = np.sin(world / 9).sum(axis=-1)
    # Where the sheared volume reaches, and three voxels inside, the straight one shows what lies there.
    inside = nib.affines.apply_affine(np.linalg.solve(SLANTED, grid), np.moveaxis(np.indices(shape), 0, -1))
    inside = ((inside > 3) & (inside < 20)).all(axis=-1)
    assert inside.sum() > 3000
    np.testing.assert_allclose(straight.array[inside], expected[inside], atol=0.01)


@pytest.mark.parametrize(
    ("affine", "usable"),
    [
        (STRAIGHT, True),
        (SLANTED, True),
        (STRAIGHT * [1e-3, 1e-3, 1e-3, 1], True),
        (np.diag([1, 1, 0, 1]), False),
        (np.diag([1, np.nan, 1, 1]), False),
        (np.array([[1, 1, 0, 0], [1, 1.0001, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), False),
        (np.array([[1e20, 1e20, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), False),
    ],
)
def test_usable_is_what_maps_voxels_to_a_volume(affine, usable):
    assert affines.usable(np.asarray(affine, np.float64)) == usable


SUBJECT = np.random.default_rng(1).normal(100, 20, SHAPE).astype(np.float32)
PLACE = np.array([[1.5, 0, 0, -9], [0, 2, 0, -8], [0, 0, 2.5, 30], [0, 0, 0, 1]])


@pytest.mark.parametrize("saved_as", ["RAS", "LPS", "LAS", "PIR", "SLA", "4D", "pair", "mgz"])
def test_one_subject_saved_in_any_orientation_is_one_array(tmp_path, saved_as):
    orientation = saved_as if saved_as.isupper() and saved_as.isalpha() else "RAS"
    turned = transforms.to_orientation(Volume(SUBJECT, PLACE), orientation)
    array = turned.array[..., None] if saved_as == "4D" else turned.array
    path = tmp_path / {"pair": "a.hdr", "mgz": "a.mgz"}.get(saved_as, "a.nii.gz")
    kind = {"pair": nib.Nifti1Pair, "mgz": nib.MGHImage}.get(saved_as, nib.Nifti1Image)
    nib.save(kind(array, turned.affine), path)
    assert read.look(path).orientation == orientation
    back = transforms.to_orientation(read.read(path), "RAS")
    np.testing.assert_array_equal(back.array, SUBJECT)
    np.testing.assert_allclose(back.affine, PLACE, atol=1e-5)


def test_an_oblique_subject_keeps_its_array_and_its_place(tmp_path):
    oblique = np.eye(4)
    oblique[:3, :3] = nib.eulerangles.euler2mat(0.3, -0.2, 0.15) @ PLACE[:3, :3]
    oblique[:3, 3] = PLACE[:3, 3]
    turned = transforms.to_orientation(Volume(SUBJECT, oblique), "PIR")
    nib.save(nib.Nifti1Image(turned.array, turned.affine), tmp_path / "a.nii.gz")
    back = transforms.to_orientation(nifti.read(tmp_path / "a.nii.gz"), "RAS")
    np.testing.assert_array_equal(back.array, SUBJECT)
    np.testing.assert_allclose(back.affine, oblique, atol=1e-5)
    assert back.notices == ()
