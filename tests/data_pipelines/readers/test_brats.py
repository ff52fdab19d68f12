import numpy as np
import pytest

from case_of import case_of
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import brats


def test_native_t1_scans_are_found(tmp_path):
    for visit in ("BraTS-GLI-00002-000", "BraTS-GLI-00002-001", "BraTS-GLI-00003-000"):
        folder = tmp_path / "TrainingData" / visit
        folder.mkdir(parents=True)
        for kind in ("t1n", "t1c", "t2w", "t2f", "seg"):
            (folder / f"{visit}-{kind}.nii.gz").touch()
    (tmp_path / "TrainingData/BraTS-GLI-00003-000/BraTS-GLI-00003-000-seg.nii.gz").unlink()
    scans = brats.find_cases(tmp_path)
    assert [(scan.name, scan.subject, scan.label_map is not None) for scan in scans] == [
        ("BraTS-GLI-00002-000", "BraTS-GLI-00002", True),
        ("BraTS-GLI-00002-001", "BraTS-GLI-00002", True),
        ("BraTS-GLI-00003-000", "BraTS-GLI-00003", False),
    ]
    assert scans[0].path.name == "BraTS-GLI-00002-000-t1n.nii.gz"


def test_one_series_of_any_year_with_the_grades_that_are_told(tmp_path):
    names = ("BraTS-GLI-00002-000/BraTS-GLI-00002-000-t2f", "BraTS-GLI-00002-000/BraTS-GLI-00002-000-t1n",
             "BraTS20_Training_001/BraTS20_Training_001_flair", "BraTS20_Training_001/BraTS20_Training_001_seg",
             "BraTS20_Training_002/BraTS20_Training_002_flair", "BraTS20_Training_002/BraTS20_Training_002_t1",
             "LGG/Brats18_CBICA_AAM_1/Brats18_CBICA_AAM_1_flair")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    (tmp_path / "name_mapping.csv").write_text(
        "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n"
        "HGG,NA,Brats18_X_1,NA,BraTS19_X_1,BraTS20_Training_001\n"
        "NA,NA,NA,NA,NA,BraTS20_Training_002\n"
    )
    found = {scan.name: (scan.label, scan.label_map is not None) for scan in brats.find_cases(tmp_path, ("t2f",))}
    assert found == {
        "BraTS-GLI-00002-000": (None, False),
        "BraTS20_Training_001": (1, True),
        "BraTS20_Training_002": (None, False),
        "Brats18_CBICA_AAM_1": (0, False),
    }
    assert len(brats.find_cases(tmp_path)) == 2


def test_radiotherapy_names_of_2024(tmp_path):
    for stem in ("BraTS-MEN-RT-0001-1/BraTS-MEN-RT-0001-1", "BraTS-MEN-RT-0002-1/BraTS-MEN-RT-0002-1"):
        for series in ("t1c", "gtv"):
            (tmp_path / stem).parent.mkdir(exist_ok=True)
            (tmp_path / f"{stem}_{series}.nii.gz").touch()
    scans = brats.find_cases(tmp_path, ("t1c",))
    assert [(scan.name, scan.subject, scan.label_map.name) for scan in scans] == [
        (f"BraTS-MEN-RT-000{n}-1", f"BraTS-MEN-RT-000{n}", f"BraTS-MEN-RT-000{n}-1_gtv.nii.gz") for n in (1, 2)
    ]
    with pytest.raises(DataError, match="no scan has t1n; set data.series to one there is: t1c"):
        brats.find_cases(tmp_path)


def test_folder_of_other_scans(tmp_path):
    (tmp_path / "sub-01_T1w.nii.gz").touch()
    with pytest.raises(DataError, match="1 files, none named like BraTS-GLI"):
        brats.find_cases(tmp_path)


@pytest.mark.parametrize(
    ("source", "shape", "pooling"), [((30, 30, 19), (32, 32, 32), 1), ((40, 20, 20), (16, 8, 8), 3)]
)
def test_other_sizes(tmp_path, source, shape, pooling):
    array = np.random.default_rng(0).normal(500, 100, source).astype(np.float32)
    nifti.write(tmp_path / "a.nii", Volume(array, np.diag([-1.0, -1, 1, 1])))
    volume = brats.Preprocessing(shape)(case_of(tmp_path / "a.nii"))["image"]
    assert volume.array.shape == shape and volume.array.min() >= -1 and volume.array.max() <= 1
    np.testing.assert_allclose(volume.spacing, pooling)
    # Nothing is cropped, and what surrounds the scan is background.
    middle = (np.array(shape) * pooling - source) // 2
    np.testing.assert_allclose(volume.affine[:3, 3], (-middle + (pooling - 1) / 2) * [-1, -1, 1])
    low, high = np.quantile(array, (0.001, 0.999))
    brightness = (np.clip(array, low, high) - low).sum(dtype=np.float64) / (high - low) * 2
    assert (volume.array + 1).sum(dtype=np.float64) * pooling**3 == pytest.approx(brightness, rel=1e-5)


def test_orientation_can_be_asked_for(tmp_path):
    array = np.random.default_rng(0).normal(500, 100, (32, 32, 19)).astype(np.float32)
    nifti.write(tmp_path / "a.nii", Volume(array, np.diag([-1.0, -1, 1, 1])))
    native, ras = (
        brats.Preprocessing((32, 32, 32), o)(case_of(tmp_path / "a.nii"))["image"] for o in ("native", "RAS")
    )
    np.testing.assert_array_equal(ras.array, native.array[::-1, ::-1])
    np.testing.assert_allclose(ras.spacing, native.spacing)


def test_empty_scan(tmp_path):
    array = np.zeros((20, 20, 20), np.float32)
    array[0, 0, 0] = 5
    nifti.write(tmp_path / "a.nii", Volume(array, np.eye(4)))
    with pytest.raises(DataError, match="not a T1 scan"):
        brats.Preprocessing((32, 32, 32))(case_of(tmp_path / "a.nii"))
