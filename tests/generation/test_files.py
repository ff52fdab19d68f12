import nibabel
import numpy as np
import pytest

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
