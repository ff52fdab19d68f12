import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from data_pipelines.readers import atlas

SIZE = (32, 40, 32)


def grid_axes(size=SIZE, factor=1):
    affine = atlas.grid(size)
    return tuple(affine[d, 3] + affine[d, d] / factor * np.arange(size[d] * factor) for d in range(3))


def draw(seed: int) -> atlas.Deformation:
    return atlas.deformation(np.random.default_rng(seed))


def jacobian_determinants(points: np.ndarray, axes) -> np.ndarray:
    gradients = [[np.gradient(points[c].astype(np.float64), axes[d], axis=d) for d in range(3)] for c in range(3)]
    return np.linalg.det(np.moveaxis(np.array(gradients), (0, 1), (-2, -1)))


def test_deformations_are_invertible():
    lowest = min(jacobian_determinants(draw(seed).sources(grid_axes()), grid_axes()).min() for seed in range(40))
    assert lowest > 0.1


def test_deformations_are_invertible_between_the_voxels():
    axes = grid_axes(factor=3)
    assert min(jacobian_determinants(draw(seed).sources(axes), axes).min() for seed in range(4)) > 0.1


def test_scaling_and_squaring_follows_the_flow():
    velocity = np.stack([3 * atlas._smooth_noise(np.random.default_rng(i), 24.0) for i in range(3)])
    control = np.indices(atlas.CONTROL_SHAPE, dtype=np.float64)
    position, steps = control.copy(), 100
    for _ in range(steps):  # the flow itself, by Euler's method
        there = [map_coordinates(component, position, order=1, mode="nearest") for component in velocity]
        position += np.array(there) / atlas.CONTROL_STEP / steps
    flowed = (position - control) * atlas.CONTROL_STEP
    displacement = atlas._exponential(velocity)
    inside = (slice(None), *[slice(3, -3)] * 3)
    assert np.abs(displacement[inside]).max() > 5
    assert np.abs((displacement - flowed)[inside]).max() < 0.3
    assert np.abs((velocity - flowed)[inside]).max() > 1  # what one step without squaring would be off by


def test_a_subject_depends_on_seed_and_number_alone():
    image, labels = atlas.subject(3, 5, SIZE)
    again, labels_again = atlas.subject(3, 5, SIZE)
    np.testing.assert_array_equal(image.array, again.array)
    np.testing.assert_array_equal(labels.array, labels_again.array)
    for other in (atlas.subject(3, 6, SIZE), atlas.subject(4, 5, SIZE)):
        assert np.abs(other[0].array - image.array).mean() > 10


def test_the_same_brain_on_every_grid():
    """Brains of one subject on two grids overlap in the world better than those of two subjects do."""
    fine, _ = atlas.subject(0, 1, (64, 80, 64))
    coarse = fine.array.reshape(32, 2, 40, 2, 32, 2).mean((1, 3, 5))
    same, other = (atlas.subject(0, n, SIZE)[0].array for n in (1, 4))
    assert np.abs(coarse - same).mean() < 0.35 * np.abs(coarse - other).mean()


@pytest.mark.parametrize("size", [(32, 40, 32), (48, 32, 64), (64, 64, 64)])
def test_the_whole_brain_fits_tightly(size):
    for n in range(6):
        image, _ = atlas.subject(0, n, size)
        assert image.array.shape == size and image.array.dtype == np.float32
        np.testing.assert_allclose(image.spacing, image.spacing[0])
        inside = np.argwhere(image.array > 200)
        edges = [np.minimum(inside.min(0), np.array(size) - 1 - inside.max(0))]
        assert np.min(edges) >= 0
        lengths = (inside.max(0) - inside.min(0) + 1) / size
        assert lengths.max() > 0.8
        shell = image.array.copy()
        shell[1:-1, 1:-1, 1:-1] = 0
        assert (shell > 200).mean() < 1e-3


def test_tissue_is_where_mni_space_has_it():
    mean = np.mean([atlas.subject(0, n, SIZE)[1].array == atlas.WHITE for n in range(8)], axis=0)
    at = {"corpus callosum": (0, -20, 26), "corona radiata": (27, -15, 28), "ventricle": (5, 5, 14), "air": (0, 80, 60)}
    voxel = {k: tuple(np.rint(np.linalg.inv(atlas.grid(SIZE)) @ [*v, 1])[:3].astype(int)) for k, v in at.items()}
    assert mean[voxel["corona radiata"]] > 0.7 and mean[voxel["corpus callosum"]] > 0.3
    assert mean[voxel["ventricle"]] < 0.3 and mean[voxel["air"]] == 0


def test_labels_and_intensities_agree():
    image, labels = atlas.subject(0, 0, SIZE, lesion_share=0.0)
    means = [image.array[labels.array == label].mean() for label in range(4)]
    assert means[0] < means[atlas.OTHER] < means[atlas.GREY] < means[atlas.WHITE] and 800 < means[atlas.WHITE] < 1150
    for volume in (image, labels):
        np.testing.assert_array_equal(volume.array, np.rint(volume.array))
    corner = image.array[:4, :4, :4]
    assert not corner.any() and image.array.max() <= 1500


def test_share_of_lesions():
    have = [(atlas.subject(0, n, SIZE, 0.5)[1].array == atlas.LESION).any() for n in range(24)]
    assert 6 <= sum(have) <= 18
    for n in range(3):
        image, labels = atlas.subject(0, n, (64, 64, 64), 1.0)
        healthy, normal = atlas.subject(0, n, (64, 64, 64), 0.0)
        lesion = labels.array == atlas.LESION
        volume = lesion.sum() * np.prod(labels.spacing) / 1000
        assert 0.3 < volume < 40  # ml
        assert image.array[lesion].mean() < 0.8 * healthy.array[lesion].mean()
        assert not (normal.array == atlas.LESION).any()
        np.testing.assert_array_equal(image.array[:5], healthy.array[:5])
