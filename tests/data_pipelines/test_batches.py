import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data_pipelines import batches
from data_pipelines.contents import changed_scan
from data_pipelines.datasets import found_identity
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import atlas
from data_pipelines.splits import SPLITS
from small_runs import LIMIT

SHAPE = (4, 6, 8)
N = 7


def settings(**changes) -> SimpleNamespace:
    """The `data` part of a config."""
    data = {
        "name": "folder", "root": "", "records": None, "cache": "", "size": SHAPE, "axes": "ijk", "orientation": "RAS",
        "split": (0.8, 0.1, 0.1), "skip_bad_files": False, "spacing": None, "fit": "crop", "window": "fixed",
        "window_range": (0.0, 1000.0), "atlas_count": 4, "atlas_seed": 0, "lesion_share": 0.25, "atlas_layout": False,
        "margin": 0, "series": None, "voxel_size": None, "label_name": None, "labels": None,
        "split_seed": 2, "subject_pattern": None, "channels": None, "label_map": False, "pattern": None,
        "scalars": None, "table": None, "split_table": None, "standardise": None, "take_added": False,
        "rotate": 0.0, "scale": 0.0, "shift": 0.0, "gamma": 0.0, "brightness": 0.0, "noise": 0.0, "nan_background": False,
    }  # fmt: skip
    return SimpleNamespace(**(data | changes))


@pytest.fixture
def data(tmp_path) -> SimpleNamespace:
    """Nine scans, whose first voxel tells which it is: 7 for training, 1 for validation, 1 for test."""
    rng = np.random.default_rng(0)
    for n in range(9):
        array = rng.uniform(0, 1000, SHAPE).astype(np.float32)
        array[0, 0, 0] = array[-1, 0, 0] = 100 * n
        affine = np.diag([1.0, 2, 3, 1])
        affine[0, 3] = n
        nifti.write(tmp_path / f"scans/{n}.nii.gz", Volume(array, affine))
    return settings(root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"))


@pytest.fixture
def dataset(data) -> batches.Dataset:
    return batches.open_dataset(data, seed=0)


def test_a_few_volumes_to_look_at_are_all_that_is_read(data):
    shown = batches.first_volumes(data, 2)
    assert shown.shape == (2, *SHAPE, 1)
    assert len(list(Path(data.cache).rglob("*.nii"))) == 2
    np.testing.assert_array_equal(batches.first_volumes(data, 99)[:2], shown)
    assert len(batches.first_volumes(settings(name="synthetic"), 2)) == 0


def test_most_of_the_identity_is_known_before_anything_is_decoded(data, dataset):
    found = found_identity(data)
    assert dataset.identity() == found | {"count": 9}
    for path in Path(data.cache).rglob("*.nii"):
        path.unlink()
    assert found_identity(data) == found
    assert not list(Path(data.cache).rglob("*.nii"))
    assert found_identity(settings(name="atlas")) == {}


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def which(batch) -> list[int]:
    return [round((float(image[0, 0, 0, 0]) + 1) * 5) for image in batch["image"]]


def test_volumes_are_those_of_the_files(dataset, data):
    assert [len(side) for side in (dataset.train, dataset.validation, dataset.test)] == [N, 1, 1]
    train = batches.volumes(dataset, "train")
    assert train.shape == (N, *SHAPE, 1) and train.dtype == np.float32
    for example, volume in zip(dataset.train, train, strict=True):
        source = nifti.read(f"{data.root}/{example.name}")
        np.testing.assert_allclose(volume[..., 0], source.array / 500 - 1, atol=1e-6)
        np.testing.assert_allclose(example.affine, source.affine)
    np.testing.assert_allclose(dataset.affine, dataset.train[0].affine)
    assert batches.volumes(dataset, "train", 2).shape[0] == batches.volume_count(dataset, "train", 2) == 2
    assert batches.volume_count(dataset, "train", N + 1) == N
    np.testing.assert_array_equal(batches.volumes(dataset, "train", chosen=[3, 1, 3]), train[[3, 1, 3]])
    assert batches.volumes(dataset, "validation").shape[0] == 1
    assert batches.volumes(dataset, "test", 0).shape == (0, *SHAPE, 1)


def test_every_epoch_holds_every_volume_once_in_a_new_order(dataset):
    stream = [i for batch in take(batches.train_batches(dataset, 1, 3), 14) for i in which(batch)]
    epochs = [tuple(stream[start : start + N]) for start in range(0, 42, N)]
    assert all(Counter(epoch) == Counter(epochs[0]) and len(set(epoch)) == N for epoch in epochs)
    assert len(set(epochs)) >= 5
    assert take(batches.train_batches(dataset, 2, N), 1)[0]["image"].shape == (N, *SHAPE, 1)
    assert which(next(batches.train_batches(dataset, 2, N))) != list(epochs[0])


def test_batch_k_is_a_function_of_seed_and_k(dataset):
    whole = take(batches.train_batches(dataset, 5, 4, flip=True), 9)
    for step in (1, 4, 8):
        again = next(batches.train_batches(dataset, 5, 4, step=step, flip=True))
        for key in ("image",):
            np.testing.assert_array_equal(again[key], whole[step][key])
    far = [next(batches.train_batches(dataset, 5, 4, step=10**9)) for _ in range(2)]
    np.testing.assert_array_equal(far[0]["image"], far[1]["image"])


def test_rows_are_those_of_the_global_batch(dataset):
    whole = take(batches.train_batches(dataset, 5, 6, step=2), 3)
    for rows in ([0, 1], [4, 5], [1, 3, 5], [3, 0]):
        for part, batch in zip(take(batches.train_batches(dataset, 5, 6, step=2, rows=rows), 3), whole, strict=True):
            np.testing.assert_array_equal(part["image"], batch["image"][rows])


def test_image_and_affine_belong_together(dataset):
    batch = next(batches.train_batches(dataset, 0, N))
    volumes = batches.volumes(dataset, "train")
    assert [int(example.affine[0, 3]) for example in dataset.train] == which({"image": volumes})
    by_number = dict(zip(map(int, (e.name[0] for e in dataset.train)), volumes, strict=True))
    for number, image in zip(which(batch), batch["image"], strict=True):
        np.testing.assert_array_equal(image, by_number[number])


def test_batches_larger_than_the_dataset(dataset):
    batch = next(batches.train_batches(dataset, 0, 3 * N))
    assert set(Counter(which(batch)).values()) == {3}


@pytest.mark.parametrize("axes", ["ijk", "kij"])
def test_flips_mirror_left_and_right_half_of_the_time(data, axes):
    data.axes = axes
    data.size = SHAPE if axes == "ijk" else (8, 4, 6)
    dataset = batches.open_dataset(data, seed=0)
    plain = take(batches.train_batches(dataset, 0, N), 6)
    flipped = take(batches.train_batches(dataset, 0, N, flip=True), 6)
    axis = 0 if axes == "ijk" else 1  # of D, H, W: where the voxels' first axis went
    mirrored = 0
    for a, b in zip((x for p in plain for x in p["image"]), (x for f in flipped for x in f["image"]), strict=True):
        assert np.array_equal(a, b) or np.array_equal(np.flip(a, axis), b)
        mirrored += not np.array_equal(a, b)
    assert 10 <= mirrored <= 32


def test_slices_first(data):
    plain = batches.open_dataset(data, seed=0)
    data.axes, data.size = "kij", (8, 4, 6)
    dataset = batches.open_dataset(data, seed=0)
    expected = np.moveaxis(batches.volumes(plain, "train"), 3, 1)
    np.testing.assert_array_equal(batches.volumes(dataset, "train"), expected)
    batch, turned = (next(batches.train_batches(d, 0, N))["image"] for d in (plain, dataset))
    np.testing.assert_array_equal(turned, np.moveaxis(batch, 3, 1))


def test_a_process_that_leaves_its_batches_open_ends(data):
    program = (
        "from types import SimpleNamespace as S; from data_pipelines import batches;"
        f"d = batches.open_dataset(S(**{vars(data)!r}), seed=1);"
        "i = batches.train_batches(d, 1, 200); next(i); print('done')"
    )
    ended = subprocess.run([sys.executable, "-c", program], check=True, timeout=LIMIT, capture_output=True, text=True)
    assert ended.stdout == "done\n"


def test_identity_is_that_of_the_data(data, tmp_path):
    def identity(**changes):
        return batches.open_dataset(SimpleNamespace(**(vars(data) | changes)), seed=0).identity()

    first = identity()
    assert json.loads(json.dumps(first)) == first and first["count"] == 9
    (tmp_path / "scans").rename(tmp_path / "moved")
    assert identity(root=str(tmp_path / "moved"), cache=str(tmp_path / "elsewhere")) == first
    data.root = str(tmp_path / "moved")
    assert identity(window_range=(0.0, 900.0)) != first
    assert identity(size=(4, 6, 10)) != first
    assert identity(split=(0.5, 0.3, 0.2)) != first
    assert identity(split_seed=3) != first
    (tmp_path / "moved/8.nii.gz").rename(tmp_path / "moved/9.nii.gz")
    assert identity() != first


def test_a_scan_written_anew_with_as_many_bytes_makes_other_data(data, tmp_path):
    paths = [tmp_path / f"scans/{n}.nii" for n in range(10, 13)]
    for path in paths:
        nifti.write(path, Volume(np.random.default_rng(0).uniform(0, 1000, SHAPE).astype(np.float32), np.eye(4)))
    first, size = batches.open_dataset(data, seed=0), paths[0].stat().st_size
    nifti.write(paths[0], Volume(nifti.read(paths[0]).array[::-1], np.eye(4)))
    second = batches.open_dataset(data, seed=0)
    assert paths[0].stat().st_size == size and second.identity() != first.identity()
    assert changed_scan(first.digests, second.digests) == "10.nii holds something else"


def test_a_pattern_says_whose_scans_are(data, tmp_path):
    data.subject_pattern = r"([0-4])|[5-8]\.nii"
    with pytest.raises(DataError, match=r"data.subject_pattern=.*: finds no subject in 5\.nii\.gz"):
        batches.open_dataset(data, seed=0)
    plain = batches.open_dataset(
        SimpleNamespace(
            **(vars(data) | {"subject_pattern": None, "channels": None, "label_map": False, "pattern": None})
        ),
        seed=0,
    )
    data.subject_pattern, data.split = r"\.(nii)", (1.0, 0.0, 0.0)
    dataset = batches.open_dataset(data, seed=0)
    assert {example.subject for example in dataset.train} == {"nii"} and len(dataset.train) == 9
    assert dataset.identity()["fingerprint"] != plain.identity()["fingerprint"]


def test_a_side_left_empty_by_chance_is_told_with_a_seed_that_fills_it(data, capsys):
    data.split_seed = 0
    dataset = batches.open_dataset(data, seed=0)
    assert [len(side) for side in (dataset.train, dataset.validation, dataset.test)] == [8, 0, 1]
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("none of 9 subjects"))
    assert "falls to validation" in line and "val_loss will be null" in line and "data.split_seed=2 leaves some" in line
    assert batches.volumes(dataset, "validation").shape == (0, *SHAPE, 1)
    data.split_seed = 2
    assert [len(getattr(batches.open_dataset(data, seed=0), side)) for side in SPLITS] == [7, 1, 1]
    data.split = (0.01, 0.99, 0.0)
    with pytest.raises(DataError, match="falls to train .*: nothing is left to learn from"):
        batches.open_dataset(data, seed=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_jax_would_not_take_as_it_is(data, seed):
    for opened in (
        lambda: batches.open_dataset(data, seed),
        lambda: batches.open_dataset(settings(name="synthetic"), seed),
    ):
        with pytest.raises(DataError, match=f"seed is {seed}; give a whole number from 0 to 4294967295"):
            opened()
    with pytest.raises(DataError, match=f"data.atlas_seed is {seed}"):
        batches.open_dataset(settings(name="atlas", atlas_seed=seed), 0)
    with pytest.raises(DataError, match=f"seed is {seed}"):
        next(batches.train_batches(batches.open_dataset(data, 0), seed, 2))


def test_bad_files_are_skipped_only_if_asked(data, tmp_path):
    bad = tmp_path / "scans/3.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=r"3\.nii\.gz.*skip_bad_files=True"):
        batches.open_dataset(data, seed=0)
    data.skip_bad_files = True
    dataset = batches.open_dataset(data, seed=0)
    examples = dataset.train + dataset.validation + dataset.test
    assert dataset.skipped == 1 and sorted(e.name[0] for e in examples) == list("01245678")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": "mnist"}, "data.name is 'mnist'; use one of atlas, folder"),
        ({"axes": "jik"}, "data.axes is 'jik'"),
        ({"orientation": "LPS"}, "data.orientation is 'LPS'"),
        ({"fit": "stretch"}, "data.fit is 'stretch'"),
        ({"window": "minmax"}, "data.window is 'minmax'"),
        ({"size": (32, 32)}, "data.size is"),
        ({"split": (0.0, 0.5, 0.5)}, "data.split is"),
        ({"window_range": (5.0, 5.0)}, "data.window_range is"),
        ({"window": "quantile", "window_range": (-1.0, 2.0)}, "data.window_range is"),
        ({"spacing": (1.0, 0.0, 1.0)}, "data.spacing is"),
        ({"root": ""}, "data.root is not set"),
        ({"root": "/nowhere"}, "data.root=/nowhere: does not exist"),
        ({"name": "atlas", "atlas_count": 0, "root": ""}, "data.atlas_count is 0"),
        ({"name": "atlas"}, "data.root is "),
        ({"window": "fixed", "window_range": (0.001, 0.999)}, "data.window is 'fixed'"),
        ({"voxel_size": (1.0, 1.0)}, "data.voxel_size is (1.0, 1.0)"),
        ({"margin": -1}, "data.margin is -1"),
        ({"series": "t2f"}, "data.series is 't2f', but data.name=folder has no choice"),
        ({"name": "brats", "series": "pd"}, "data.series is 'pd'; use one of t1n, t1c, t2w, t2f"),
        ({"name": "duke", "series": "Dyn_X"}, "data.series is 'Dyn_X'; use one of Dyn_N"),
        ({"label_name": "grade"}, "data.label_name is 'grade' for data.name=folder; give labels by a file"),
        ({"label_name": "lesion"}, "data.label_name is 'lesion' for data.name=folder; give labels by a file"),
        ({"name": "mrnet", "label_name": "tear"}, "data.label_name is 'tear' for data.name=mrnet; use one of abnormal"),
        (
            {"name": "brats", "label_name": "grade", "labels": "a.csv"},
            "data.label_name is 'grade' and data.labels is a.csv",
        ),
        ({"labels": "/nowhere.csv"}, "/nowhere.csv: cannot be read"),
    ],
)
def test_settings_that_cannot_work(data, changes, expected):
    with pytest.raises(DataError) as raised:
        batches.open_dataset(SimpleNamespace(**(vars(data) | changes)), seed=0)
    assert str(raised.value).startswith(expected) and "\n" not in str(raised.value)


def test_labels_come_with_their_volumes(data, tmp_path):
    assert "class" not in next(batches.train_batches(batches.open_dataset(data, seed=0), 0, 2))
    data.labels = str(tmp_path / "labels.csv")
    label_of = {n: n % 4 if n != 5 else -1 for n in range(9)}
    (tmp_path / "labels.csv").write_text("".join(f"{n}.nii.gz,{k}\n" for n, k in label_of.items() if k >= 0))
    dataset = batches.open_dataset(data, seed=0)
    assert dataset.classes == 4
    for batch in take(batches.train_batches(dataset, 5, 4, flip=True), 5):
        assert batch["class"].dtype == np.int32
        assert [label_of[n] for n in which(batch)] == batch["class"].tolist()
    numbers = [int(example.name[0]) for example in dataset.train]
    assert batches.known(dataset, "train")["class"].tolist() == [label_of[n] for n in numbers]
    assert batches.known(dataset, "train", 5, [3, 1])["class"].tolist() == [label_of[numbers[n]] for n in (3, 1)]
    # Other labels make other data.
    identity = dataset.identity()
    (tmp_path / "labels.csv").write_text("0.nii.gz,1\n1.nii.gz,3\n")
    assert batches.open_dataset(data, seed=0).identity() != identity


def test_labels_that_no_scan_has(tmp_path):
    data = settings(name="brats", cache=str(tmp_path), size=(32, 32, 32), atlas_layout=True, label_name="grade")
    with pytest.raises(DataError, match="data.label_name is 'grade': none of 4 scans has that label"):
        batches.open_dataset(data, seed=0)


@pytest.mark.parametrize(("name", "label_name"), [("atlas", "lesion"), ("adni", "lesion"), ("mrnet", "acl")])
def test_made_up_subjects_are_labelled_by_their_lesions(tmp_path, name, label_name):
    data = settings(
        name=name, cache=str(tmp_path), size=(32, 32, 32), atlas_layout=True, label_name=label_name, lesion_share=0.5,
        orientation="native", split=(1.0, 0.0, 0.0),
    )  # fmt: skip
    dataset = batches.open_dataset(data, seed=0)
    examples = sorted(dataset.train + dataset.validation, key=lambda example: example.name)
    found = [example.label for example in examples]
    lesions = [(atlas.subject(0, n, data.size, 0.5)[1].array == atlas.LESION).any() for n in range(4)]
    assert dataset.classes == 2 and 0 < sum(lesions) < 4
    assert found == lesions


def test_npy_files_are_warned_of_once(tmp_path, capsys):
    (tmp_path / "scans").mkdir()
    for n in range(2):
        np.save(tmp_path / f"scans/{n}.npy", np.random.default_rng(n).uniform(0, 900, SHAPE))
    data = settings(root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"))
    assert len(batches.open_dataset(data, seed=0).train) == 2
    assert capsys.readouterr().err.count("do not say how large voxels are, so 1 mm") == 1
    data.voxel_size = (2.0, 2.0, 2.0)
    np.testing.assert_array_equal(batches.open_dataset(data, seed=0).affine, np.diag([2, 2, 2, 1]))
    assert "do not say" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["atlas", "adni", "brats", "duke", "folder", "lidc", "mrnet"])
def test_made_up_data_under_every_name(tmp_path, name):
    changes = {"orientation": "native", "spacing": (5.5,) * 3} if name == "lidc" else {}
    data = settings(
        name=name,
        cache=str(tmp_path),
        size=(32, 32, 32),
        atlas_layout=name != "atlas",
        split=(1.0, 0.0, 0.0),
        **changes,
    )
    dataset = batches.open_dataset(data, seed=0)
    volumes = batches.volumes(dataset, "train")
    assert volumes.shape == (4, 32, 32, 32, 1) and volumes.min() == -1 and volumes.max() <= 1
    assert 0.1 < (volumes > -0.9).mean() < 0.6
    assert next(batches.train_batches(dataset, 0, 2))["image"].shape == (2, 32, 32, 32, 1)
    data.atlas_count = 3  # of the four that are there now
    assert batches.open_dataset(data, seed=0).identity()["count"] == 3


def test_a_root_goes_before_made_up_data(tmp_path):
    (tmp_path / "scans").mkdir()
    with pytest.raises(DataError, match="the folder is empty"):
        batches.open_dataset(settings(name="brats", root=str(tmp_path / "scans"), atlas_layout=True), seed=0)


def test_synthetic_needs_no_files_and_no_tensorflow():
    program = (
        "import sys; from types import SimpleNamespace as S; from data_pipelines import batches;"
        f"d = batches.open_dataset(S(**{vars(settings(name='synthetic'))!r}), seed=1);"
        "b = next(batches.train_batches(d, 1, 2)); assert b['image'].shape == (2, 4, 6, 8, 1);"
        "assert batches.volumes(d, 'validation', 3).shape == (3, 4, 6, 8, 1);"
        "assert not {'tensorflow', 'jax', 'medjax', 'nilearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
