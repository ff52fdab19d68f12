"""Every geometric step keeps tissue where it is in the world: most tests compare world coordinates, not indices."""

import dataclasses
import itertools

import nibabel as nib
import numpy as np
import pytest

from data_pipelines import transforms
from data_pipelines.formats.nifti import Volume

OBLIQUE = np.array([[0.1, -1.2, 0.05, 12.0], [0.9, 0.1, 0.2, -30], [0.1, 0.15, -2.1, 55], [0, 0, 0, 1]])


def world(affine: np.ndarray, voxel) -> np.ndarray:
    return (affine @ [*voxel, 1.0])[:3]


def coordinates(shape, affine) -> Volume:
    """A volume whose value is a linear function of world coordinates: what any exact interpolation must reproduce."""
    voxels = np.moveaxis(np.indices(shape), 0, -1)
    points = voxels @ affine[:3, :3].T + affine[:3, 3]
    return Volume((points @ [1.0, 0.5, -0.25]).astype(np.float32), affine)


def expect_linear(volume: Volume, margin: int = 0) -> None:
    inside = tuple(slice(margin, n - margin) for n in volume.array.shape)
    expected = coordinates(volume.array.shape, volume.affine).array
    np.testing.assert_allclose(volume.array[inside], expected[inside], rtol=0, atol=2e-4)


@pytest.mark.parametrize("signs", itertools.product([1, -1], repeat=3))
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_to_ras_from_every_orientation(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs * [1.0, 2.0, 3.0]
    affine[:3, 3] = [5, -7, 9]
    volume = transforms.to_orientation(coordinates((4, 5, 6), affine), "RAS")
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    expect_linear(volume)


def test_oblique_volumes_turn_by_right_angles_only():
    source = coordinates((4, 5, 6), OBLIQUE)
    volume = transforms.to_orientation(source, "RAS")
    assert sorted(volume.array.ravel()) == sorted(source.array.ravel())
    expect_linear(volume)
    assert transforms.to_orientation(source, "native") is source


@pytest.mark.parametrize("shape", [(3, 4, 5), (10, 11, 12), (3, 9, 6), (6, 7, 8)])
def test_crop_or_pad(shape):
    source = coordinates((6, 7, 8), OBLIQUE)
    volume = transforms.crop_or_pad(source, shape, fill=1e6)
    assert volume.array.shape == shape
    kept = volume.array != 1e6
    assert kept.sum() == np.prod(np.minimum(shape, (6, 7, 8)))
    expected = coordinates(shape, volume.affine).array
    np.testing.assert_allclose(volume.array[kept], expected[kept], atol=1e-4)
    # The centres agree to half a voxel.
    shift = np.linalg.inv(OBLIQUE) @ volume.affine @ [*(np.array(shape) - 1) / 2, 1] - [2.5, 3, 3.5, 1]
    assert np.abs(shift).max() <= 0.5


def test_crop_then_pad_is_the_identity_on_what_is_left():
    source = coordinates((6, 7, 8), OBLIQUE)
    cropped = transforms.crop(source, (slice(1, 5), slice(2, None), slice(None, -3)))
    assert cropped.array.shape == (4, 5, 5)
    expect_linear(cropped)
    padded = transforms._window_of_voxels(cropped, (-1, -2, 0), (6, 7, 8), -9)
    np.testing.assert_allclose(padded.affine, OBLIQUE)
    np.testing.assert_array_equal(padded.array[1:5, 2:, :5], source.array[1:5, 2:, :5])
    assert (padded.array == -9).sum() == padded.array.size - 100


@pytest.mark.parametrize("spacing", [(0.6, 0.6, 1.1), (2.0, 3.0, 4.0)])
def test_resample(spacing):
    source = coordinates((20, 22, 24), OBLIQUE)
    volume = transforms.resample(source, spacing, order=1)
    np.testing.assert_allclose(volume.spacing, spacing)
    expect_linear(volume, margin=4)
    assert_same_field(source, volume, tolerance=0.51)


@pytest.mark.parametrize("shape", [(10, 11, 12), (40, 30, 25)])
def test_resize(shape):
    source = coordinates((20, 22, 24), OBLIQUE)
    volume = transforms.resize(source, shape, order=1)
    assert volume.array.shape == shape
    expect_linear(volume, margin=3)
    assert_same_field(source, volume, tolerance=1e-9)


def assert_same_field(source: Volume, volume: Volume, tolerance: float) -> None:
    """The outer corners of the two grids agree, to a part of a new voxel."""
    for corner in itertools.product([0, 1], repeat=3):
        old, new = (world(v.affine, np.array(corner) * v.array.shape - 0.5) for v in (source, volume))
        assert np.all(np.abs(np.linalg.solve(volume.affine[:3, :3], new - old)) <= tolerance)


def test_downsampling_does_not_alias():
    stripes = np.tile(np.float32([1, -1]), 24)[:, None, None] * np.ones((48, 8, 8), np.float32)
    resized = transforms.resize(Volume(stripes, np.eye(4)), (16, 8, 8))
    assert np.abs(resized.array[2:-2]).max() < 0.05  # every third value of the stripes would be +1, -1, +1


def test_labels_are_not_mixed():
    labels = (np.random.default_rng(0).random((12, 12, 12)) > 0.5).astype(np.float32) * 4
    resized = transforms.resize(Volume(labels, np.eye(4)), (7, 9, 20), order=0)
    assert set(np.unique(resized.array)) == {0.0, 4.0}


def test_average_pool():
    source = coordinates((6, 8, 4), OBLIQUE)
    pooled = transforms.average_pool(source, 2)
    assert pooled.array.shape == (3, 4, 2)
    expect_linear(pooled)  # the mean of a linear function over a block is its value at the block's centre
    assert pooled.array[1, 2, 0] == pytest.approx(source.array[2:4, 4:6, 0:2].mean(), abs=1e-5)


def test_window():
    array = np.float32([-2000, -1000, 0, 1000, 3000]).reshape(5, 1, 1)
    volume = transforms.window(Volume(array, np.eye(4)), -1000, 1000)
    np.testing.assert_array_equal(volume.array.ravel(), [-1, -1, 0, 1, 1])
    assert volume.array.dtype == np.float32 and array[0] == -2000


def test_axes_of_the_network():
    array = np.arange(24).reshape(2, 3, 4)
    assert transforms.to_network(array, "ijk").shape == (2, 3, 4)
    slices_first = transforms.to_network(array, "kij")
    assert slices_first.shape == (4, 2, 3)
    assert slices_first[3, 1, 2] == array[1, 2, 3]
    for axes in ("ijk", "kij"):
        there = transforms.to_network(array, axes)
        np.testing.assert_array_equal(transforms.from_network(there, axes), array)
        assert transforms.voxel_shape(there.shape, axes) == array.shape


def test_labels_of_pooled_voxels_are_those_of_one_voxel_near_their_centre():
    source = coordinates((6, 9, 12), OBLIQUE)
    labels = dataclasses.replace(source, array=np.arange(6 * 9 * 12, dtype=np.int16).reshape(6, 9, 12))
    picked, pooled = transforms.pick(labels, 3), transforms.average_pool(source, 3)
    np.testing.assert_array_equal(picked.array, labels.array[1::3, 1::3, 1::3])
    np.testing.assert_array_equal(picked.affine, pooled.affine)
    assert picked.array.dtype == np.int16


@pytest.mark.parametrize("order", [0, 1])
def test_onto_the_grid_of_another_volume(order):
    source = coordinates((20, 22, 24), np.diag([1.0, 1.0, 1.0, 1.0]))
    turned = np.array([[0, -1.0, 0, 15.0], [1.0, 0, 0, 4.0], [0, 0, 1.0, 6.0], [0, 0, 0, 1]])
    grid = Volume(np.zeros((8, 9, 10), np.float32), turned)
    assert not transforms.same_grid(source, grid)
    found = transforms.onto(source, grid, order)
    np.testing.assert_array_equal(found.affine, turned)
    np.testing.assert_allclose(found.array, coordinates((8, 9, 10), turned).array, atol=1e-4)
    beyond = transforms.onto(source, Volume(grid.array, turned + np.outer([1, 0, 0, 0], [0, 0, 0, 99.0])), order)
    assert (beyond.array == (0 if order == 0 else source.array.min())).all()


def test_a_grid_that_differs_in_rounding_only_is_the_same():
    volume = coordinates((6, 7, 8), OBLIQUE)
    nudged = dataclasses.replace(volume, affine=OBLIQUE + 1e-5)
    assert transforms.same_grid(volume, nudged)
    assert transforms.onto(volume, nudged).array is volume.array
    assert not transforms.same_grid(
        volume, dataclasses.replace(volume, affine=OBLIQUE + np.outer([0, 0, 1, 0], [0, 0, 0, 0.5]))
    )
    assert not transforms.same_grid(volume, coordinates((6, 7, 9), OBLIQUE))
