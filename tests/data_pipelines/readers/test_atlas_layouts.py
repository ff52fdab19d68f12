import numpy as np
import pytest

from data_pipelines.formats import nifti
from data_pipelines.readers import adni, atlas, atlas_layouts, brats, duke, lidc, mrnet
from data_pipelines.readers.atlas_layouts import Atlas

SUBJECTS = Atlas(seed=0, size=(32, 32, 32), lesion_share=1.0)


def test_files_hold_the_subjects(tmp_path):
    scans = atlas_layouts.write_plain(tmp_path, SUBJECTS, 2)
    assert [scan.name for scan in scans] == ["sub-00000", "sub-00001"]
    image, labels = atlas.subject(0, 1, SUBJECTS.size, 1.0)
    for path, volume in ((scans[1].path, image), (scans[1].label_map, labels)):
        stored = nifti.read(path)
        np.testing.assert_array_equal(stored.array, volume.array)
        np.testing.assert_allclose(stored.affine, volume.affine, atol=1e-5)
    unfinished = [path for path in tmp_path.rglob("*") if "unfinished" in path.name]
    assert not unfinished


def test_only_what_is_missing_is_written(tmp_path):
    first, second = atlas_layouts.write_plain(tmp_path, SUBJECTS, 2)
    before, missing = first.path.stat().st_mtime_ns, second.path.read_bytes()
    second.path.unlink()
    (first.path.parent / ".unfinished-1-sub-00000.nii.gz").touch()
    scans = atlas_layouts.write_plain(tmp_path, SUBJECTS, 3)
    assert len(scans) == 3 and first.path.stat().st_mtime_ns == before
    assert second.path.read_bytes() == missing
    assert len(list(first.path.parent.iterdir())) == 3


def test_other_subjects_go_elsewhere(tmp_path):
    folders = {Atlas(seed, (32, 32, n), share).folder(tmp_path, "atlas")
               for seed in (0, 1) for n in (32, 40) for share in (0.0, 0.25)}  # fmt: skip
    assert len(folders) == 8


def test_laid_out_as_brats(tmp_path):
    root = brats.write_made_up(tmp_path, SUBJECTS, 2)
    assert (root / "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t1n.nii.gz").exists()
    scans = brats.find_cases(root)
    assert [scan.subject for scan in scans] == ["BraTS-GLI-00000", "BraTS-GLI-00001"]
    image, labels = nifti.read(scans[0].path), nifti.read(scans[0].label_map)
    np.testing.assert_array_equal(np.sign(np.diag(image.affine)), [-1, -1, 1, 1])
    np.testing.assert_allclose(image.affine, labels.affine)
    assert not image.array[labels.array == 0].max() > 1000 and (labels.array == atlas.LESION).any()


def test_laid_out_as_adni(tmp_path):
    scans = adni.find_cases(adni.write_made_up(tmp_path, SUBJECTS, 2))
    assert [scan.subject for scan in scans] == ["000_S_0000", "000_S_0001"]
    np.testing.assert_array_equal(np.sign(np.diag(nifti.read(scans[0].path).affine)), [-1, 1, 1, 1])


def test_laid_out_as_dukes(tmp_path):
    for series in ("Dyn_0", "Dyn_1"):
        scans = duke.find_cases(duke.write_made_up(tmp_path, SUBJECTS, 2, (series,)), (series,))
        assert [scan.subject for scan in scans] == ["Breast_MRI_00001", "Breast_MRI_00002"]


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
def test_laid_out_as_mrnet(tmp_path, plane):
    scans = mrnet.find_cases(mrnet.write_made_up(tmp_path, SUBJECTS, 3, (plane,)), plane, "meniscus")
    assert [(scan.name, scan.label) for scan in scans] == [("0000", 1), ("0001", 1), ("0002", 1)]
    stored = np.load(scans[1].path)
    assert stored.dtype == np.uint8
    # Back in the world's axes it is the subject.
    volume = mrnet.Preprocessing(SUBJECTS.size, "RAS", window="fixed", window_range=(0.0, 255.0), plane=plane)(
        scans[1]
    )[plane]
    image, _ = atlas.subject(0, 1, SUBJECTS.size, 1.0)
    np.testing.assert_allclose((volume.array + 1) * 750, image.array, atol=6)


def test_laid_out_as_lidc(tmp_path):
    root = lidc.write_made_up(tmp_path, SUBJECTS, 2)
    scans = lidc.find_cases(root)
    assert [scan.subject for scan in scans] == ["LIDC-IDRI-0001", "LIDC-IDRI-0002"]
    assert nifti.read(scans[0].path).array.min() == -1000
