import nibabel as nib
import numpy as np
import pytest

from case_of import case_of
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import lidc
from test_dicom import write_slice


def test_ct_series_of_a_download(tmp_path):
    for patient in ("LIDC-IDRI-0001", "LIDC-IDRI-0002"):
        for k in range(3):
            write_slice(tmp_path / f"LIDC-IDRI/{patient}/1.3.6/1.3.7/{k}.dcm", k)
    write_slice(tmp_path / "LIDC-IDRI/LIDC-IDRI-0001/1.3.8/1.3.9/0.dcm", 0, Modality="DX")
    (tmp_path / "LIDC-IDRI/LIDC-IDRI-0001/1.3.6/1.3.7/069.xml").touch()
    scans = lidc.find_cases(tmp_path)
    assert [(scan.name, scan.subject) for scan in scans] == [
        ("LIDC-IDRI/LIDC-IDRI-0001/1.3.6/1.3.7", "LIDC-IDRI-0001"),
        ("LIDC-IDRI/LIDC-IDRI-0002/1.3.6/1.3.7", "LIDC-IDRI-0002"),
    ]
    volume = lidc.Preprocessing((4, 4, 4), spacing=(16.0, 16.0, 16.0))(scans[0])["ct"]
    assert nib.aff2axcodes(volume.affine) == ("L", "A", "S") and volume.description.startswith("padded")


def test_folder_without_ct(tmp_path):
    write_slice(tmp_path / "LIDC-IDRI-0001/1/2/0.dcm", 0, Modality="DX")
    with pytest.raises(DataError, match="1 files, neither NIfTI nor a CT series"):
        lidc.find_cases(tmp_path)


def ct(path, shape, spacing):
    array = np.random.default_rng(0).normal(-300, 200, shape).astype(np.float32)
    array[:2] = -2000
    nifti.write(path, Volume(array, np.diag([*spacing, 1.0])))
    return path


@pytest.mark.parametrize("orientation", ["native", "RAS"])
def test_small_scans_are_padded_and_say_so(tmp_path, orientation):
    path = ct(tmp_path / "a.nii", (30, 40, 20), (8.0, 8.0, 8.0))
    volume = lidc.Preprocessing((32, 32, 32), orientation, (8.0, 8.0, 8.0))(case_of(path))["image"]
    assert volume.array.shape == (32, 32, 32)
    assert volume.description == "padded with air from 30x32x20"
    air = volume.array[:, :, :6]
    assert (air == -1).all() and volume.array.max() == 1
    # The scan's first voxel, along the axes that were padded, and its fifth along the one cropped from 40.
    np.testing.assert_allclose((volume.affine @ [1, 0, 6, 1])[:3], [0, 4 * 8, 0], atol=1e-6)


def test_a_scan_that_fills_the_field_is_not_padded(tmp_path):
    volume = lidc.Preprocessing((16, 16, 16), spacing=(8.0,) * 3)(
        case_of(ct(tmp_path / "a.nii", (33, 40, 32), (8.0,) * 3))
    )["image"]
    assert volume.description == "" and volume.array.shape == (16, 16, 16)
    np.testing.assert_allclose(volume.spacing, 16)


def test_not_a_ct(tmp_path):
    nifti.write(tmp_path / "a.nii", Volume(np.full((4, 4, 4), -3000.0) + np.arange(4), np.eye(4)))
    with pytest.raises(DataError, match="not a CT"):
        lidc.Preprocessing((4, 4, 4), spacing=(64.0,) * 3)(case_of(tmp_path / "a.nii"))
