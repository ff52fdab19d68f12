import pytest

from data_pipelines.errors import DataError
from data_pipelines.readers import duke


@pytest.fixture
def root(tmp_path):
    for patient in ("Breast_MRI_001", "Breast_MRI_002"):
        (tmp_path / patient).mkdir()
        for series in ("Dyn_0", "Dyn_1", "Dyn_10", "T1_0", "Sub_1"):
            (tmp_path / patient / f"{series}.nii.gz").touch()
    return tmp_path


@pytest.mark.parametrize("series", ["Dyn_0", "Dyn_1"])
def test_one_series_of_each_patient(root, series):
    scans = duke.find_cases(root, (series,))
    assert [(scan.name, scan.subject, scan.path.name) for scan in scans] == [
        ("Breast_MRI_001", "Breast_MRI_001", f"{series}.nii.gz"),
        ("Breast_MRI_002", "Breast_MRI_002", f"{series}.nii.gz"),
    ]


def test_another_folder(root):
    with pytest.raises(DataError, match=r"10 NIfTI files, none PATIENT/Dyn_7\.nii\.gz"):
        duke.find_cases(root, ("Dyn_7",))
    with pytest.raises(DataError, match=r"5 NIfTI files, none PATIENT/Dyn_0\.nii\.gz"):
        duke.find_cases(root / "Breast_MRI_001")
