import nibabel
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from medjax.generation.files import Writer, as_int16, extremes, write_sample

DATA = {"axes": "ijk", "affine": np.diag([1.0, 2.0, 3.0, 1.0]).tolist(), "intensity_range": [-1000.0, 500.0]}


def volume(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (4, 5, 6)).astype(np.float32)


def test_int16_of_the_device_means_the_same_intensities(tmp_path):
    drawn = volume()
    drawn[0, 0, :2] = -1, 1
    write_sample(tmp_path / "whole.nii.gz", np.asarray(as_int16(drawn)), DATA)
    write_sample(tmp_path / "exact.nii.gz", drawn, DATA)
    whole, exact = (nibabel.load(tmp_path / f"{name}.nii.gz") for name in ("whole", "exact"))
    assert whole.get_data_dtype() == np.int16
    np.testing.assert_allclose(whole.get_fdata(), exact.get_fdata(), atol=0.51 * 1500 / (2 * 32767))
    np.testing.assert_allclose(whole.get_fdata()[0, 0, :2], [-1000, 500], atol=1e-3)
    np.testing.assert_array_equal(whole.affine, exact.affine)


@pytest.mark.parametrize("prepared", [np.asarray, lambda drawn: np.asarray(as_int16(drawn))])
def test_nan_is_nan_in_the_file_whatever_its_type(prepared, tmp_path):
    drawn = volume()
    drawn[1, 2, 3] = np.nan
    write_sample(tmp_path / "a.nii.gz", prepared(drawn), DATA)
    found = nibabel.load(tmp_path / "a.nii.gz").get_fdata()
    np.testing.assert_allclose(found, 750 * drawn - 250, atol=0.51 * 1500 / (2 * 32767))
    assert not extremes(tmp_path / "a.nii.gz").finite


def test_extremes_tell_a_constant_volume_from_others(tmp_path):
    for name, drawn in (("flat", np.full((4, 5, 6), 0.25, np.float32)), ("other", volume())):
        write_sample(tmp_path / f"{name}.nii.gz", drawn, DATA)
    flat, other = (extremes(tmp_path / f"{name}.nii.gz") for name in ("flat", "other"))
    assert flat.constant and flat.finite and flat.low == -62.5
    assert other.finite and not other.constant


def test_everything_is_written_when_the_writer_is_left(tmp_path):
    with Writer() as writer:
        for n in range(20):
            writer.write(tmp_path / f"{n}.nii.gz", volume(n), DATA)
    for n in range(20):
        np.testing.assert_allclose(nibabel.load(tmp_path / f"{n}.nii.gz").get_fdata(), 750 * volume(n) - 250, atol=1e-3)


def test_a_file_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    def full(path, *arguments):
        raise DataError(f"{path}: no space left")

    monkeypatch.setattr(nifti, "write", full)
    with pytest.raises(DataError, match="0.nii.gz: no space left"), Writer() as writer:
        writer.write(tmp_path / "0.nii.gz", volume(), DATA)


def itk_places(path) -> np.ndarray:
    """The affine that ITK reads, in RAS+."""
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.diag([-1, -1, 1, 1]) @ affine


@pytest.mark.parametrize("slant", [2e-4, 1e-3, 0.3])
@pytest.mark.parametrize("prepared", [np.asarray, lambda drawn: np.asarray(as_int16(drawn))])
def test_itk_places_samples_of_sheared_data_as_others_do_about_the_same_centre(prepared, slant, tmp_path):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:, 2] = [0, 3 * slant, 3, 0]
    affine[:3, 3] = [10, 20, 30]
    write_sample(tmp_path / "a.nii.gz", prepared(volume()), DATA | {"affine": affine.tolist()})
    written = nibabel.load(tmp_path / "a.nii.gz").affine
    np.testing.assert_allclose(itk_places(tmp_path / "a.nii.gz"), written, atol=1e-4)
    header = nibabel.load(tmp_path / "a.nii.gz").header
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-5)
    centre = [1.5, 2, 2.5, 1]
    np.testing.assert_allclose(written @ centre, affine @ centre, atol=1e-4)
    np.testing.assert_allclose(
        np.linalg.norm(written[:3, :3], axis=0), np.linalg.norm(affine[:3, :3], axis=0), rtol=1e-5
    )


def test_the_affine_of_straight_data_is_written_to_the_bit(tmp_path):
    turned = Rotation.from_euler("xyz", [0.3, -0.2, 0.1]).as_matrix() * [0.9, 1.1, 2.7]
    affine = np.eye(4)
    affine[:3] = np.c_[turned, [1.0, -2.0, 3.0]].astype(np.float32)
    write_sample(tmp_path / "a.nii.gz", volume(), DATA | {"affine": affine.tolist()})
    np.testing.assert_array_equal(nibabel.load(tmp_path / "a.nii.gz").affine, affine)
