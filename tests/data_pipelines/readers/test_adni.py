import pytest

from data_pipelines.errors import DataError
from data_pipelines.readers import adni

RAW = "ADNI/002_S_0295/MP-RAGE/2006-04-18_08_20_30.0/S13408/ADNI_002_S_0295_MR_MP-RAGE__br_raw_20060418193713091_1.nii"
PROCESSED = (
    "ADNI/002_S_0295/MPR__GradWarp__B1_Correction__N3/2006-11-02_08_16_44.0/I40966/ADNI_002_S_0295_MR_MPR_N3.nii"
)
LATER = "ADNI/941_S_10012/Accelerated_Sagittal_MPRAGE/2017-11-13/I1195/ADNI_941_S_10012_MR_Accelerated_MPRAGE.nii.gz"


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_t1_scans_by_subject(tmp_path):
    touch(tmp_path, RAW, PROCESSED, LATER, RAW.replace(".nii", "_brain_mask.nii"), RAW.replace(".nii", ".xml"),
          "ADNI/002_S_0413/Axial_PD_T2_FSE/2006/S1/ADNI_002_S_0413_MR_Axial_PD_T2_FSE.nii",
          "ADNI/template/MPRAGE/mni.nii")  # fmt: skip
    assert {scan.name: scan.subject for scan in adni.find_cases(tmp_path)} == {
        RAW: "002_S_0295", PROCESSED: "002_S_0295", LATER: "941_S_10012",
    }  # fmt: skip


def test_another_folder(tmp_path):
    touch(tmp_path, "sub-01/MPRAGE.nii.gz")
    with pytest.raises(DataError, match="1 NIfTI files, none with a subject like 002_S_0295 and MPRAGE"):
        adni.find_cases(tmp_path)
