"""Scans with several images and a label map: one grid from the files to the batch, through cache and records."""

import numpy as np
import pytest

from data_pipelines import batches, datasets, transforms
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.preprocessing import LABELS
from data_pipelines.readers import brats, folder
from prepared import changed, make
from test_batches import settings

SHAPE = (8, 8, 8)
N = 10
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def data(tmp_path):
    """BraTS folders whose labels are 0, 1, 2, 4, whose FLAIR is 1000 less T1; the last lacks its FLAIR, one its labels."""
    rng = np.random.default_rng(0)
    for n in range(N + 1):
        name = f"BraTS-GLI-{n:05d}-000"
        t1 = rng.uniform(1, 999, SHAPE).astype(np.float32)
        labels = rng.choice([0, 1, 2, 4], SHAPE).astype(np.uint8)
        images = {"t1n": t1, "t2f": 1000 - t1} if n < N else {"t1n": t1}
        for series, array in images.items():
            nifti.write(tmp_path / f"scans/{name}/{name}-{series}.nii.gz", Volume(array, AFFINE))
        if n != 3:
            nifti.write(tmp_path / f"scans/{name}/{name}-seg.nii.gz", Volume(labels, AFFINE), np.uint8)
    return settings(
        name="brats", root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"), size=SHAPE, orientation="native",
        channels=("t2f", "t1n"), label_map=True, split=(0.6, 0.2, 0.2), split_seed=1, window="quantile",
        window_range=(0.001, 0.999),
    )  # fmt: skip


def labels_of(data, name):
    return nifti.read(f"{data.root}/{name}/{name}-seg.nii.gz").array


def test_channels_and_label_map_come_to_the_batch_in_the_order_asked_for(data, capsys):
    dataset = datasets.open_dataset(data, 0)
    told = "data.label_map is True: 1 of 10 scans, such as BraTS-GLI-00003-000, have none and are left out"
    assert told in capsys.readouterr().err
    assert dataset.example_shape == (*SHAPE, 2) and dataset.has_label_maps
    names = [example.name for example in dataset.train]
    assert not {"BraTS-GLI-00003-000", f"BraTS-GLI-{N:05d}-000"} & set(names)
    volumes, labels = batches.volumes(dataset, "train"), batches.label_maps(dataset, "train")
    for name, volume, label_map in zip(names, volumes, labels, strict=True):
        np.testing.assert_array_equal(label_map, labels_of(data, name))
        flair, t1 = (
            brats.Preprocessing(SHAPE)(Case(name, name, {s: f"{data.root}/{name}/{name}-{s}.nii.gz"}))[s].array
            for s in ("t2f", "t1n")
        )
        np.testing.assert_array_equal(volume, np.stack([flair, t1], axis=-1))


def test_batches_hold_labels_of_their_images_and_mirror_both_alike(data):
    dataset = datasets.open_dataset(data, 0)
    known = {
        volume.tobytes(): labels
        for volume, labels in zip(batches.volumes(dataset, "train"), batches.label_maps(dataset, "train"), strict=True)
    }
    stream, mirrored = batches.train_batches(dataset, 0, 4, flip=True), 0
    for _ in range(4):
        batch = next(stream)
        assert batch["labels"].dtype == np.int32 and batch["labels"].shape == (4, *SHAPE)
        for image, labels in zip(batch["image"], batch["labels"], strict=True):
            if image.tobytes() not in known:  # the first voxel axis runs to the left
                image, labels, mirrored = image[::-1], labels[::-1], mirrored + 1
            np.testing.assert_array_equal(labels, known[image.tobytes()])
    assert 2 < mirrored < 14


def test_records_are_the_same_but_for_half_precision_and_labels_to_the_bit(data, tmp_path):
    expected = datasets.open_dataset(data, 0)
    data.records = str(tmp_path / "records")
    make(data)
    data.root = None
    prepared = datasets.open_dataset(data, 0)
    assert prepared.identity() == expected.identity()
    np.testing.assert_array_equal(batches.label_maps(prepared, "test"), batches.label_maps(expected, "test"))
    for _, ours, theirs in zip(
        range(4), *(batches.train_batches(d, 3, 2, flip=True) for d in (prepared, expected)), strict=False
    ):
        np.testing.assert_allclose(ours["image"], theirs["image"], atol=2.5e-4)
        np.testing.assert_array_equal(ours["labels"], theirs["labels"])
    for other in ({"channels": ("t1n", "t2f")}, {"channels": None}, {"label_map": False}):
        with pytest.raises(DataError, match=f"data.{next(iter(other))} is .*was prepared with"):
            datasets.open_dataset(changed(data, **other), 0)


def test_another_choice_of_arrays_is_another_dataset(data):
    identities = [
        datasets.open_dataset(changed(data, **other), 0).identity()
        for other in ({}, {"channels": ("t1n", "t2f")}, {"label_map": False}, {"channels": None, "series": "t1n"})
    ]
    assert all(identities[i] != identities[j] for i in range(4) for j in range(i))
    assert "channels" not in identities[3]


def test_images_and_labels_of_other_grids_come_onto_the_first(tmp_path):
    rng = np.random.default_rng(0)
    field = np.add.outer(np.add.outer(np.arange(12.0), 2 * np.arange(14)), 3 * np.arange(10)).astype(np.float32)
    nifti.write(tmp_path / "a.nii", Volume(field, np.eye(4)))
    turned = transforms.to_orientation(Volume(field, np.eye(4)), "PIR")
    nifti.write(tmp_path / "b.nii", turned)
    labels = rng.integers(0, 300, (12, 14, 10)).astype(np.int16)
    in_lps = transforms.to_orientation(Volume(labels, np.eye(4)), "LPS")
    nifti.write(tmp_path / "labels.nii", in_lps, np.int16)
    case = Case("a", "a", {"a": tmp_path / "a.nii", "b": tmp_path / "b.nii"}, tmp_path / "labels.nii")
    arrays = folder.Preprocessing((12, 14, 10), window_range=(0.0, 1.0))(case)
    np.testing.assert_allclose(arrays["a"].array, arrays["b"].array, atol=1e-4)
    np.testing.assert_array_equal(arrays[LABELS].array, labels)
    # Resized, labels are still such as there were, in their places.
    half = folder.Preprocessing((6, 7, 5), window_range=(0.0, 1.0), fit="resize")(case)[LABELS]
    assert half.array.shape == (6, 7, 5)
    point = half.affine @ [2, 3, 1, 1]
    around = np.ix_(*(sorted({int(np.floor(x)), int(np.ceil(x))}) for x in point[:3]))
    assert half.array[2, 3, 1] in labels[around]


@pytest.mark.parametrize("values", [[0.5, 1], [-1, 3], [0, 40000], [0, np.nan]])
def test_what_is_no_label_map_is_named(tmp_path, values):
    array = np.resize(np.array(values, np.float32), (4, 4, 4))
    nifti.write(tmp_path / "a.nii", Volume(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4)))
    nifti.write(tmp_path / "seg.nii", Volume(array, np.eye(4)))
    with pytest.raises(DataError, match="seg.nii: values from .* a label map holds whole numbers from 0 to 32767"):
        folder.Preprocessing((4, 4, 4))(Case("a", "a", {"image": tmp_path / "a.nii"}, tmp_path / "seg.nii"))


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"channels": ("t1n", "t1n")}, "data.channels is .*give different names"),
        ({"name": "folder", "channels": ("t1n", "labels")}, "data.channels is .*give different names"),
        ({"channels": ("t1n", "pd")}, "use some of t1n, t1c, t2w, t2f"),
        (
            {"channels": ("t1n",), "series": "t1n"},
            "data.series is 't1n' and data.channels is .*use data.channels alone",
        ),
        ({"name": "mrnet", "channels": ("axial", "coronal"), "label_map": False}, "have one image each; give one"),
        ({"name": "adni", "channels": None}, "data.label_map is True, but data.name=adni has no label maps"),
        ({"name": "synthetic", "root": None}, "data.name=synthetic has one image alone; leave them unset"),
    ],
)
def test_arrays_that_cannot_be_had_are_refused(data, keys, line):
    with pytest.raises(DataError, match=line):
        datasets.open_dataset(changed(data, **keys), 0)
