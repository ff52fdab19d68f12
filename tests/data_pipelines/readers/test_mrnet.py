import nibabel as nib
import numpy as np
import pytest

from case_of import case_of
from data_pipelines.errors import DataError
from data_pipelines.readers import mrnet


def exam(root, side, plane, name, shape=(5, 8, 7)):
    """Brighter from slice to slice, row to row and column to column."""
    array = np.add.outer(np.add.outer(100 * np.arange(shape[0]), 10 * np.arange(shape[1])), np.arange(shape[2]))
    path = root / side / plane / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array.astype(np.uint16))
    return path


@pytest.fixture
def root(tmp_path):
    for side, names in (("train", ("0000", "0001")), ("valid", ("1130",))):
        for name in names:
            for plane in ("axial", "coronal", "sagittal"):
                exam(tmp_path, side, plane, name)
        lines = [f"{name},{n}\n" for n, name in enumerate(names)]
        for task in ("abnormal", "acl", "meniscus"):
            (tmp_path / f"{side}-{task}.csv").write_text("".join(lines if task == "acl" else lines[:1]))
    return tmp_path


def test_exams_of_one_plane(root):
    scans = mrnet.find_cases(root, "coronal")
    assert [(scan.name, scan.subject, scan.label) for scan in scans] == [
        ("0000", "0000", None), ("0001", "0001", None), ("1130", "1130", None),
    ]  # fmt: skip
    assert {scan.path.parent.name for scan in scans} == {"coronal"}


def test_labels_are_those_of_the_task(root):
    assert [scan.label for scan in mrnet.find_cases(root, label_name="acl")] == [0, 1, 0]
    assert [scan.label for scan in mrnet.find_cases(root, label_name="abnormal")] == [0, None, 0]
    (root / "valid-acl.csv").unlink()
    with pytest.raises(DataError, match=r"valid-acl\.csv: cannot be read"):
        mrnet.find_cases(root, label_name="acl")


def test_another_folder(root):
    (root / "train").rename(root / "mine")
    (root / "valid").rename(root / "yours")
    with pytest.raises(DataError, match="9 .npy files, none in train/sagittal or valid/sagittal"):
        mrnet.find_cases(root)


@pytest.mark.parametrize(("plane", "axes"), [("sagittal", "IPR"), ("coronal", "ILP"), ("axial", "PLS")])
def test_rows_columns_and_slices_lie_as_the_plane_is_looked_at(root, plane, axes):
    path = root / "train" / plane / "0000.npy"
    volume = mrnet.Preprocessing((8, 7, 5), "native", window_range=(0.0, 1.0), plane=plane)(case_of(path))["image"]
    assert nib.aff2axcodes(volume.affine) == tuple(axes)
    np.testing.assert_allclose(volume.spacing, (0.625, 0.625, 3.0))
    np.testing.assert_allclose(volume.affine @ [3.5, 3, 2, 1], [0, 0, 0, 1], atol=1e-9)
    stored = np.load(path).astype(float)
    expected = 2 * (stored - stored.min()) / np.ptp(stored) - 1  # from the least to the largest value
    np.testing.assert_allclose(volume.array, np.moveaxis(expected, 0, 2), atol=1e-6)


def test_more_or_fewer_slices_are_cropped_or_padded(root):
    volume = mrnet.Preprocessing((8, 7, 9), "native", window_range=(0.0, 1.0))(
        case_of(root / "train/sagittal/0000.npy")
    )["image"]
    assert volume.array.shape == (8, 7, 9)
    assert (volume.array[..., [0, 1, 7, 8]] == -1).all() and (volume.array[1:, 1:, 2:7] > -1).all()
    np.testing.assert_allclose(volume.affine @ [3.5, 3, 4, 1], [0, 0, 0, 1], atol=1e-9)
