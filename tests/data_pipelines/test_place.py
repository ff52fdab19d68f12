"""One subject however it is stored: the same batch, and a sample made of it lies where the scan lies."""

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data_pipelines import batches, datasets
from medjax.generation.files import as_int16, write_sample
from test_batches import settings

SHAPE = (30, 36, 24)
SPACING = (1.0, 1.2, 1.6)
BLOBS = np.array([[11.0, 13.0, 10.0], [19.0, 15.0, 12.0], [14.0, 24.0, 13.0]])  # voxels of RAS+, all inside the brain
FITS = {
    "crop": {"fit": "crop"},
    "spacing": {"fit": "crop", "spacing": (1.5, 1.5, 1.5)},
    "resize": {"fit": "resize", "spacing": (2.0, 2.0, 2.0)},
    "brain": {"fit": "brain", "margin": 1},
}


def subject() -> np.ndarray:
    """A brain, which no axis or direction resembles another of, with three bright places in it; 0 outside."""
    voxels = np.moveaxis(np.indices(SHAPE), 0, -1) * SPACING
    distance = np.linalg.norm((voxels - np.array([15, 19, 11.5]) * SPACING) / (12, 15, 11), axis=-1)
    array = np.where(distance < 1, 200 + 3 * voxels.sum(-1), 0)
    for n, blob in enumerate(BLOBS):
        array += (600 + 100 * n) * np.exp(-0.5 * (((voxels - blob * SPACING) / 2.0) ** 2).sum(-1))
    return np.where(distance < 1, array, 0).astype(np.float32)


def affine_of(turned: float) -> np.ndarray:
    affine = np.eye(4)
    rotation = Rotation.from_euler("xyz", (turned, -0.6 * turned, 0.4 * turned), degrees=True).as_matrix()
    affine[:3, :3] = rotation * SPACING
    affine[:3, 3] = (-20, 31, -55)
    return affine


def save(root, axes: str, turned: float = 0.0, fourth: bool = False) -> None:
    """A folder of this one subject, stored in the directions named, such as LPS."""
    image = nib.Nifti1Image(subject(), affine_of(turned))
    ornt = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes))
    image = image.as_reoriented(ornt)
    assert "".join(nib.aff2axcodes(image.affine)) == axes
    if fourth:
        image = nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine)
    root.mkdir(parents=True)
    nib.save(image, root / "subject.nii.gz")


def opened(folder, **changes):
    defaults = {"size": (24, 32, 20), "window_range": (0.0, 1500.0), "split": (1.0, 0.0, 0.0)}
    return datasets.open_dataset(
        settings(root=str(folder / "scans"), cache=str(folder / "cache"), **(defaults | changes)), 0
    )


@pytest.mark.parametrize("fit", FITS)
def test_the_same_subject_gives_the_same_batch_however_it_is_stored(fit, tmp_path):
    stored = {"RAS": {}, "LPS": {}, "LAS": {}, "PIR": {}, "RAS of four axes": {"fourth": True}}
    stored |= {"RAS turned": {"turned": 12.0}, "LPI turned": {"turned": 12.0}}
    found = {}
    for name, how in stored.items():
        save(tmp_path / name / "scans", name[:3], **how)
        dataset = opened(tmp_path / name, **FITS[fit])
        found[name] = next(batches.train_batches(dataset, 0, 1))["image"]
        expected = affine_of(0.0) if "turned" not in name else affine_of(12.0)
        directions = dataset.affine[:3, :3] / np.linalg.norm(dataset.affine[:3, :3], axis=0)
        np.testing.assert_allclose(directions, expected[:3, :3] / SPACING, atol=1e-6)
    for name, image in found.items():
        np.testing.assert_allclose(image, found["RAS"], atol=2e-5, err_msg=name)


@pytest.mark.parametrize("axes", ["ijk", "kij"])
@pytest.mark.parametrize("orientation", ["RAS", "native"])
@pytest.mark.parametrize("fit", FITS)
def test_a_sample_written_back_lies_on_its_scan(fit, orientation, axes, tmp_path):
    save(tmp_path / "scans", "LPI", turned=12.0)
    dataset = opened(tmp_path, **FITS[fit], orientation=orientation, axes=axes)
    drawn = as_int16(batches.volumes(dataset, "train")[0, ..., 0])
    data = {"axes": dataset.axes, "affine": dataset.affine, "intensity_range": dataset.intensity_range}
    write_sample(tmp_path / "sample.nii.gz", np.asarray(drawn), data)
    sample = nib.load(tmp_path / "sample.nii.gz")
    for blob in BLOBS:
        world = nib.affines.apply_affine(affine_of(12.0), blob)
        apart = np.linalg.inv(sample.affine) @ [*world, 1]
        assert np.abs(brightest(sample.get_fdata(), apart[:3]) - apart[:3]).max() < 0.5


def brightest(array: np.ndarray, near: np.ndarray) -> np.ndarray:
    """The top of the bright place about a voxel, to a fraction of one: parabolas through the brightest and its neighbours."""
    low = np.maximum(np.round(near).astype(int) - 2, 0)
    box = array[tuple(slice(n, n + 5) for n in low)]
    top = low + np.unravel_index(box.argmax(), box.shape)
    found = top.astype(float)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        before, at, after = (array[tuple(top + k * step)] for k in (-1, 0, 1))
        found[axis] += 0.5 * (before - after) / (before - 2 * at + after)
    return found
