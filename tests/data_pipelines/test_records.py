import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from etils import epath
from etils.epath import backend, gpath, register

from data_pipelines import batches, datasets, records
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from prepared import SHAPE, N, changed, contents, make, scans_to_prepare
from test_batches import settings


@pytest.fixture
def data(tmp_path) -> SimpleNamespace:
    return scans_to_prepare(tmp_path)


def both(data) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The dataset from the scans themselves and from records."""
    make(data)
    return datasets.open_dataset(changed(data, records=None), 0), datasets.open_dataset(changed(data, root=None), 0)


def take(dataset, count, **arguments):
    return list(itertools.islice(batches.train_batches(dataset, 3, 4, **arguments), count))


@pytest.mark.parametrize("axes", ["ijk", "kij"])
def test_records_give_what_the_files_give(data, axes):
    data.axes = axes
    files, prepared = both(data)
    assert prepared.prepared and not files.prepared
    assert prepared.identity() == files.identity() and prepared.identity()["count"] == N
    for field in ("name", "size", "axes", "intensity_range", "skipped", "padded"):
        assert getattr(prepared, field) == getattr(files, field)
    np.testing.assert_allclose(prepared.affine, files.affine, rtol=1e-6, atol=1e-6)
    for side in ("train", "validation", "test"):
        assert [e.name for e in getattr(prepared, side)] == [e.name for e in getattr(files, side)]
        ours, theirs = batches.volumes(prepared, side), batches.volumes(files, side)
        assert ours.dtype == np.float32 and len(ours) > 0
        np.testing.assert_allclose(ours, theirs, atol=5e-4)
    shown = batches.first_volumes(data, 3)
    np.testing.assert_allclose(shown, batches.first_volumes(changed(data, records=None), 3), atol=5e-4)
    assert batches.first_volumes(data, 99).shape == (N, *SHAPE, 1)
    pairs = zip(take(prepared, 9, flip=True), take(files, 9, flip=True), strict=True)
    for batch, expected in pairs:  # nine batches of four are seven epochs of five
        np.testing.assert_allclose(batch["image"], expected["image"], atol=5e-4)


def test_batch_k_is_a_function_of_seed_and_k(data):
    _, prepared = both(data)
    whole = take(prepared, 6, flip=True)
    for step in (1, 5):
        np.testing.assert_array_equal(take(prepared, 1, step=step, flip=True)[0]["image"], whole[step]["image"])
    far = take(prepared, 1, step=10**12)[0]["image"]
    np.testing.assert_array_equal(take(prepared, 1, step=10**12)[0]["image"], far)


def test_a_process_opens_the_shards_of_its_rows_alone(data):
    _, prepared = both(data)
    whole = take(prepared, 1)[0]["image"]
    volumes = batches.volumes(prepared, "train")
    own = [next(i for i, volume in enumerate(volumes) if np.array_equal(volume, row)) for row in whole[[3, 1]]]
    for i, example in enumerate(prepared.train):
        if i not in own:
            example.images[0].unlink()
    np.testing.assert_array_equal(take(prepared, 1, rows=(3, 1))[0]["image"], whole[[3, 1]])
    with pytest.raises(DataError, match="folder-train.tfrecord-.*No such file"):
        take(prepared, 1)


def test_tfds_opens_the_folder(data):
    _, prepared = both(data)
    builder = tfds.builder_from_directory(data.records)
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        "train": len(prepared.train), "validation": len(prepared.validation), "test": len(prepared.test),
    }  # fmt: skip
    for side in builder.info.splits:
        found = {element["name"]: element for element in tfds.as_numpy(builder.as_dataset(split=side))}
        volumes = batches.volumes(prepared, side)
        for example, volume in zip(getattr(prepared, side), volumes, strict=True):
            element = found[example.name.encode()]
            assert element["image"].dtype == np.float16
            np.testing.assert_array_equal(element["image"].astype(np.float32), volume[..., 0])
            np.testing.assert_array_equal(element["affine"], example.affine)


def test_an_empty_split_is_none_for_tfds_and_no_obstacle(data):
    data.split = (0.8, 0.2, 0.0)
    _, prepared = both(data)
    assert prepared.test == () and set(tfds.builder_from_directory(data.records).info.splits) == {"train", "validation"}


def test_reading_one_volume_and_sampling_need_no_tensorflow(data):
    make(data)
    program = (
        "import sys; sys.modules['tensorflow'] = None; from types import SimpleNamespace as S;"
        f"from data_pipelines import batches; d = S(**{vars(changed(data, root=None))!r});"
        "assert batches.first_volumes(d, 2).shape[0] == 2;"
        "assert len(batches.volumes(batches.open_dataset(d, 0), 'validation')) == 2"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def bucket(monkeypatch) -> str:
    """A bucket in memory: TensorFlow's own file system ram://, which etils is told of."""
    monkeypatch.setattr(gpath, "_URI_PREFIXES", (*gpath._URI_PREFIXES, "ram://"))
    monkeypatch.setattr(gpath, "_URI_SCHEMES", gpath._URI_SCHEMES | {"ram"})
    monkeypatch.setitem(gpath._URI_MAP_ROOT, "ram://", "/ram/")
    monkeypatch.setitem(gpath._PREFIX_TO_BACKEND, "ram", backend.tf_backend)
    register.register_path_cls(("ram://",))(gpath.PosixGPath)
    yield "ram://bucket"
    tf.io.gfile.rmtree("ram://bucket")


def test_a_bucket_is_as_good_as_a_disk(data, bucket):
    make(data)
    from_disk = datasets.open_dataset(data, 0)
    data.records = f"{bucket}/records"
    make(data)
    make(data)
    from_bucket = datasets.open_dataset(changed(data, root=None), 0)
    assert str(from_bucket.train[0].images[0]).startswith("ram://bucket/records/folder-train.tfrecord-00000-of-")
    np.testing.assert_array_equal(batches.volumes(from_bucket, "test"), batches.volumes(from_disk, "test"))
    for ours, theirs in zip(take(from_bucket, 3), take(from_disk, 3), strict=True):
        np.testing.assert_array_equal(ours["image"], theirs["image"])
    assert tfds.builder_from_directory(data.records).info.splits["train"].num_examples == len(from_disk.train)
    (epath.Path(data.records) / records.FILE_NAME).unlink()
    with pytest.raises(DataError, match="ram://bucket/records: no records.json"):
        datasets.open_dataset(data, 0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": (5, 5, 4)}, "data.size is [5, 5, 4]"),
        ({"axes": "kij"}, "data.axes is kij"),
        ({"orientation": "native"}, "data.orientation is native"),
        ({"spacing": (1.0, 1.0, 1.0)}, "data.spacing is [1.0, 1.0, 1.0]"),
        ({"window_range": (0.0, 900.0)}, "data.window_range is [0.0, 900.0]"),
        ({"window": "quantile", "window_range": (0.0, 1.0)}, "data.window is quantile"),
        ({"fit": "crop"}, "data.fit is crop"),
        ({"split": (0.8, 0.1, 0.1)}, "data.split is [0.8, 0.1, 0.1]"),
        ({"name": "brats"}, "data.name is brats"),
        ({"records": "/nowhere/at/all"}, "data.records=/nowhere/at/all: no such folder"),
        ({"name": "synthetic"}, "data.records is"),
    ],
)  # fmt: skip
def test_a_config_that_does_not_agree_is_told_the_key(data, changes, expected):
    make(data)
    for opened in (lambda d: datasets.open_dataset(d, 0), lambda d: batches.first_volumes(d, 2)):
        with pytest.raises(DataError) as raised:
            opened(changed(data, root=None, **changes))
        assert str(raised.value).startswith(expected) and "\n" not in str(raised.value)


def test_the_number_of_made_up_subjects_counts(tmp_path):
    data = settings(name="atlas", size=(32, 32, 32), cache=str(tmp_path), records=str(tmp_path / "records"))
    make(data)
    assert datasets.open_dataset(data, 0).identity() == datasets.open_dataset(changed(data, records=None), 0).identity()
    with pytest.raises(DataError, match="data.atlas_count is 5, but .* was prepared with 4"):
        datasets.open_dataset(changed(data, atlas_count=5), 0)


def test_damage_is_found(data):
    _, prepared = both(data)
    path = prepared.train[1].images[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    with pytest.raises(DataError) as raised:
        take(prepared, 3)
    assert str(raised.value).startswith(f"{path}: cannot be read (corrupted record")
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match=f"^{path}: damaged .its checksum is wrong.; copy it again"):
        batches.volumes(prepared, "train")
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=f"^{path}: cannot be read"):
        take(prepared, 3)
    with pytest.raises(DataError, match=f"^{path}: .* bytes of"):
        batches.volumes(prepared, "train")
    with pytest.raises(DataError, match=f"^{path}: .* bytes of"):
        make(data)
    path.unlink()
    with pytest.raises(DataError, match=rf"data.records=.*: 1 of {N} shards are missing, {path.name} is the first"):
        datasets.open_dataset(data, 0)


@pytest.mark.parametrize(
    ("name", "path", "subject"),
    [
        ("adni", "ADNI/{n:03d}_S_0001/MPRAGE/I{visit}/brain.nii", "{n:03d}_S_0001"),
        ("brats", "BraTS-GLI-{n:05d}-00{visit}/BraTS-GLI-{n:05d}-00{visit}-t1n.nii.gz", "BraTS-GLI-{n:05d}"),
        ("folder", "x/sub-{n:02d}/ses-{visit}/t1.nii.gz", "sub-{n:02d}"),
    ],
)
def test_records_know_whose_a_volume_is(tmp_path, name, path, subject):
    rng = np.random.default_rng(0)
    for n in range(4):
        for visit in range(2):
            volume = Volume(rng.uniform(1, 1000, (9, 8, 7)).astype(np.float32), np.eye(4))
            nifti.write(tmp_path / "scans" / path.format(n=n, visit=visit), volume)
    data = settings(
        name=name, root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"), records=str(tmp_path / "records"),
        size=SHAPE, fit="brain", window="quantile", window_range=(0.0, 1.0), split=(0.5, 0.5, 0.0), split_seed=0,
    )  # fmt: skip
    files, prepared = both(data)
    for side in ("train", "validation"):
        found = [(example.name, example.subject) for example in getattr(prepared, side)]
        assert found == [(example.name, example.subject) for example in getattr(files, side)]
    everyone = [example.subject for example in prepared.train + prepared.validation]
    assert sorted(everyone) == sorted(2 * [subject.format(n=n) for n in range(4)])
    assert prepared.identity() == files.identity() and prepared.digests == files.digests


def test_records_of_layout_1_are_read_as_they_were_divided(data, capsys):
    make(data)
    file = Path(data.records) / records.FILE_NAME
    written = json.loads(file.read_text())
    for shard in written["shards"]:
        del shard["subject"]
    del (
        written["crc32c"],
        written["scans"],
        written["identity"]["rules"],
        written["identity"]["split_seed"],
        written["settings"]["split_seed"],
    )
    file.write_text(json.dumps(written | {"version": 1}))
    prepared = datasets.open_dataset(changed(data, root=None, split_seed=99), 0)
    assert (
        sum(
            line.startswith(f"data.records={data.records}: of an earlier layout")
            for line in capsys.readouterr().err.splitlines()
        )
        == 1
    )
    sides = {shard["name"]: shard["split"] for shard in written["shards"]}
    for side in ("train", "validation", "test"):
        assert [e.name for e in getattr(prepared, side)] == sorted(
            name for name, there in sides.items() if there == side
        )
    assert {e.subject for e in prepared.train} == {Path(e.name).parent.name for e in prepared.train}
    with pytest.raises(DataError, match="prepared by a version that divided subjects by other rules"):
        make(data)


def test_any_flipped_bit_of_a_record_is_found_without_tensorflow(tmp_path):
    path, array = epath.Path(tmp_path / "a.tfrecord"), np.random.default_rng(0).uniform(-1, 1, (4, 5, 6))
    records.write(path, "a", {"image": array}, np.eye(4))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(DataError, match=f"^{path}: "):
            records.read(path, (4, 5, 6))


@pytest.mark.parametrize(
    ("old", "new"), [('"skipped": 0', '"skipped": 1'), ('"train"', '"test"'), ("folder", "golder")]
)
def test_a_changed_description_is_found(data, old, new):
    make(data)
    file = Path(data.records) / records.FILE_NAME
    whole = file.read_text()
    assert old in whole
    file.write_text(whole.replace(old, new, 1))
    with pytest.raises(DataError, match=f"^{file}: damaged .its checksum is wrong"):
        datasets.open_dataset(data, 0)


def test_another_layout_is_refused(data):
    make(data)
    file = Path(data.records) / records.FILE_NAME
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 7}))
    with pytest.raises(DataError, match="of layout 7, not 1 or 2"):
        datasets.open_dataset(data, 0)
    file.write_text("{")
    with pytest.raises(DataError, match="data.records=.*: cannot be read"):
        datasets.open_dataset(data, 0)


def test_the_bytes_depend_on_the_scans_alone(data, tmp_path):
    make(data)
    data.records = str(tmp_path / "again")
    make(data, processes=3)
    assert contents(tmp_path / "records") == contents(tmp_path / "again")
    path = tmp_path / "one"
    written = records.write(epath.Path(path), "x", {"image": np.zeros(SHAPE, np.float32)}, np.eye(4))
    assert path.stat().st_size == written


def test_half_a_float16_step_is_the_most_that_is_lost(tmp_path):
    image = np.linspace(-1, 1, np.prod(SHAPE)).astype(np.float32).reshape(SHAPE)
    records.write(epath.Path(tmp_path / "x"), "x", {"image": image}, np.eye(4))
    found = records.read(epath.Path(tmp_path / "x"), SHAPE)
    np.testing.assert_allclose(found, image, atol=2.5e-4)
    assert found.min() == -1 and found.max() == 1
