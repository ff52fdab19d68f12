"""Folders of any layout, and DICOM trees, from the files to the dataset and cases.csv."""

import csv

import numpy as np
import pytest

from data_pipelines import batches, datasets, transforms
from data_pipelines.errors import DataError
from data_pipelines.formats import dicom, nifti
from data_pipelines.formats.nifti import Volume
from test_batches import settings
from test_dicom import COLUMNS, ROWS, SLICES
from test_dicom_series import write_series

SHAPE = (6, 5, 4)
N = 6


def open_folder(tmp_path, **changes):
    """Opens the folder scans; returns the dataset and the lines of cases.csv."""
    data = settings(
        root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"), size=SHAPE, fit="resize", window="quantile",
        window_range=(0.0, 1.0), split_seed=3, **changes,
    )  # fmt: skip
    dataset = datasets.open_dataset(data, 0, cases_csv=tmp_path / "run/cases.csv")
    with open(tmp_path / "run/cases.csv", newline="") as file:
        return dataset, list(csv.DictReader(file))


def examples(dataset):
    return sorted((*dataset.train, *dataset.validation, *dataset.test), key=lambda example: example.name)


def image(seed):
    return Volume(np.random.default_rng(seed).uniform(0, 900, (9, 8, 7)).astype(np.float32), np.diag([-1, -1, 2, 1]))


def labels(seed):
    return Volume(np.random.default_rng(seed).integers(0, 4, (9, 8, 7)).astype(np.uint8), np.diag([-1, -1, 2, 1]))


@pytest.fixture
def nnunet(tmp_path):
    for n in range(N):
        for channel in range(2):
            nifti.write(tmp_path / f"scans/imagesTr/case_{n:03d}_000{channel}.nii.gz", image(10 * n + channel))
        nifti.write(tmp_path / f"scans/labelsTr/case_{n:03d}.nii.gz", labels(n), np.uint8)


def test_channels_and_label_maps_of_an_nnunet_tree(tmp_path, nnunet):
    dataset, rows = open_folder(tmp_path, channels=("0001", "0000"), label_map=True)
    assert len(examples(dataset)) == N and dataset.example_shape == (*SHAPE, 2)
    assert {row["status"] for row in rows} == {"used"} and len(rows) == N
    sides = {row["subject"]: row["split"] for row in rows}
    for side in ("train", "validation", "test"):
        assert {example.subject for example in getattr(dataset, side)} == {s for s, of in sides.items() if of == side}
    first = rows[0]["files"].split("|")
    assert first == [f"imagesTr/case_000_000{n}.nii.gz" for n in (1, 0)] + ["labelsTr/case_000.nii.gz"]
    assert (rows[0]["shape"], rows[0]["spacing"], rows[0]["orientation"]) == ("9x8x7", "1x1x2", "LPS")
    assert set(np.unique(batches.label_maps(dataset, "train"))) == {0, 1, 2, 3}


def test_several_channels_are_asked_about_and_label_maps_never_taken_for_images(tmp_path, nnunet):
    with pytest.raises(DataError, match=r'data.channels=\("0000",\)'):
        open_folder(tmp_path)
    dataset, rows = open_folder(tmp_path, channels=("0000",))
    assert len(examples(dataset)) == N and not dataset.has_label_maps
    reasons = [row["reason"] for row in rows if row["status"] == "left out"]
    assert len(reasons) == 2 * N and sum(reason.startswith("label map") for reason in reasons) == N


def test_a_pattern_says_what_is_an_image(tmp_path, nnunet):
    dataset, _ = open_folder(tmp_path, pattern="*_0001.nii.gz")
    assert {example.name for example in examples(dataset)} == {f"imagesTr/case_{n:03d}_0001.nii.gz" for n in range(N)}


def test_an_unreadable_header_is_refused_or_skipped_and_counted(tmp_path, nnunet):
    path = tmp_path / "scans/imagesTr/case_002_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="case_002_0000.nii.gz: .*or set data.skip_bad_files=True"):
        open_folder(tmp_path, channels=("0000",))
    dataset, rows = open_folder(tmp_path, channels=("0000",), skip_bad_files=True)
    assert dataset.skipped == 1 and len(examples(dataset)) == N - 1
    assert [row["name"] for row in rows if row["status"] == "unreadable"] == ["imagesTr/case_002_0000.nii.gz"]


def write_dicom_tree(tmp_path, modality="CT", patients=range(N)):
    for n in patients:
        uid = f"1.{n}.{ord(modality[0])}"
        write_series(
            tmp_path / f"scans/{n}/{modality}", name="IM{:04d}", PatientID=f"P{n}", SeriesInstanceUID=uid,
            StudyInstanceUID=f"2.{n}", Modality=modality,
        )  # fmt: skip


def test_a_dicom_tree_is_a_dataset_of_its_series(tmp_path):
    write_dicom_tree(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "scans").rglob("*") if path.is_file()}
    dataset, rows = open_folder(tmp_path, spacing=None)
    assert {example.subject for example in examples(dataset)} == {f"P{n}" for n in range(N)}
    assert rows[0]["name"] == "0/CT" and rows[0]["files"] == f"0/CT ({SLICES} files)"
    shape = f"{COLUMNS}x{ROWS}x{SLICES}"
    assert {(row["shape"], row["spacing"], row["orientation"]) for row in rows} == {(shape, "0.6x0.7x2.5", "LPS")}
    # The volume is that of the regular reader, brought to the same grid.
    for n in range(SLICES):
        (tmp_path / f"scans/0/CT/IM{n:04d}").rename(tmp_path / f"scans/0/CT/{n}.dcm")
    expected = transforms.to_orientation(dicom.read_series(tmp_path / "scans/0/CT"), "RAS")
    found = nifti.read(examples(dataset)[0].images[0])
    expected = transforms.resize(transforms.window(expected, expected.array.min(), expected.array.max()), SHAPE)
    np.testing.assert_allclose(found.array, np.clip(expected.array, -1, 1), atol=1e-5)
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-4)
    assert [*before.values()] and all(path.read_bytes() == content for path, content in before.items() if path.exists())


def test_of_two_modalities_one_is_to_be_chosen(tmp_path):
    write_dicom_tree(tmp_path)
    write_dicom_tree(tmp_path, "MR", range(2))
    with pytest.raises(DataError, match=r"series of CT \(6\), MR \(2\); choose one, such as data.channels"):
        open_folder(tmp_path)
    dataset, rows = open_folder(tmp_path, channels=("mr",), split=(1.0, 0.0, 0.0))
    assert [example.subject for example in examples(dataset)] == ["P0", "P1"]
    assert sum(row["reason"] == "another modality than is asked for" for row in rows) == N
    for keys, line in (
        ({"channels": ("CT", "MR")}, "a DICOM series is one image"),
        ({"channels": ("PT",)}, "no series of that modality"),
        ({"label_map": True}, "data.label_map is set, but .* holds DICOM files"),
    ):
        with pytest.raises(DataError, match=line):
            open_folder(tmp_path, **keys)


def test_beside_other_files_dicom_is_left_out_and_told(tmp_path, capsys):
    write_dicom_tree(tmp_path, patients=range(1))
    for n in range(N):
        nifti.write(tmp_path / f"scans/nifti/p{n}.nii.gz", image(n))
    dataset, _ = open_folder(tmp_path)
    assert len(examples(dataset)) == N
    assert f"there are other files, so {SLICES} DICOM files" in capsys.readouterr().err
