"""Records of latents, by an encoder that anyone could write."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines import batches, datasets, prepare_records, records
from data_pipelines.errors import DataError
from data_pipelines.records import Latents
from prepared import SHAPE, changed, contents, make, scans_to_prepare

LATENTS = Latents({"fingerprint": "abc", "step": 7}, (3, 2, 2, 2))


def encode(volume: np.ndarray) -> np.ndarray:
    """Every other voxel, and twice that and one."""
    assert volume.shape == (*SHAPE, 1) and volume.dtype == np.float32
    part = volume[::2, 1::2, ::2, 0].astype(np.float64)
    return np.stack([part, 2 * part + 1], axis=-1)


def make_latents(data, latents=LATENTS, encode=encode):
    preparation = prepare_records.plan(data, latents)
    if not prepare_records.is_finished(preparation):
        with prepare_records.sole_use(preparation):
            prepare_records.decode(preparation, prepare_records.missing(preparation), encode)
            prepare_records.finish(preparation)


@pytest.fixture
def data(tmp_path):
    return scans_to_prepare(tmp_path)


@pytest.fixture
def volumes(data):
    """The dataset of volumes that the latents are of."""
    return datasets.open_dataset(changed(data, records=None), 0)


def test_batches_of_latents_in_place_of_volumes(data, volumes):
    make_latents(data)
    dataset = datasets.open_dataset(data, 0, LATENTS)
    assert (dataset.content, dataset.example_shape, dataset.latents) == ("latents", (3, 2, 2, 2), LATENTS)
    assert (volumes.content, volumes.example_shape, volumes.latents) == ("image", (*SHAPE, 1), None)
    assert dataset.identity() == volumes.identity()
    streams = (itertools.islice(batches.train_batches(side, 3, 4), 5) for side in (dataset, volumes))
    for ours, theirs in zip(*streams, strict=True):
        assert ours.keys() == {"latents"} and ours["latents"].dtype == np.float32
        expected = np.stack([encode(image) for image in theirs["image"]])
        np.testing.assert_array_equal(ours["latents"], expected.astype(np.float32))
    for side in ("train", "validation"):
        found = batches.volumes(dataset, side)
        expected = [encode(volume) for volume in batches.volumes(volumes, side)]
        np.testing.assert_array_equal(found, np.asarray(expected, np.float32))


def test_their_ranges_are_those_of_training_in_its_order(data):
    make_latents(data)
    dataset = datasets.open_dataset(data, 0, LATENTS)
    train = batches.volumes(dataset, "train")
    np.testing.assert_array_equal(dataset.latent_ranges, [train.min(axis=(1, 2, 3)), train.max(axis=(1, 2, 3))])


def test_only_those_of_the_model_in_use_are_taken(data):
    make_latents(data)
    before = contents(data.records)
    for wanted, expected in (
        (None, "holds latents, no volumes"),
        (Latents(LATENTS.model | {"step": 8}, LATENTS.shape), "holds latents of another model, .*7.*8"),
        (Latents(LATENTS.model, (3, 2, 2, 4)), "holds latents of another model"),
    ):
        for opened in (lambda: datasets.open_dataset(data, 0, wanted), lambda: make_latents(data, wanted)):  # noqa: B023
            with pytest.raises(DataError, match=expected) as raised:
                opened()
            assert str(raised.value).startswith(f"data.records={data.records}: ") and "\n" not in str(raised.value)
    with pytest.raises(DataError, match="holds latents, no volumes"):
        batches.first_volumes(data, 1)
    assert contents(data.records) == before


def test_records_of_volumes_serve_too_but_are_not_mixed(data):
    make(data)
    dataset = datasets.open_dataset(data, 0, LATENTS)
    assert dataset.content == "image" and dataset.latent_ranges is None
    with pytest.raises(DataError, match="holds volumes, no latents"):
        make_latents(data)


def test_going_on_after_a_kill_gives_the_same_bytes(data, tmp_path):
    make_latents(changed(data, records=str(tmp_path / "reference")))
    preparation = prepare_records.plan(data, LATENTS)
    with prepare_records.sole_use(preparation):
        prepare_records.decode(preparation, [1, 4], encode)
    with pytest.raises(DataError, match="holds latents, no volumes"):
        make(data)
    make_latents(data)
    assert contents(data.records) == contents(tmp_path / "reference")


def test_what_an_encoder_must_not_give(data):
    preparation = prepare_records.plan(data, LATENTS)
    for wrong in (lambda volume: encode(volume)[:2], lambda volume: encode(volume) * np.nan):
        with prepare_records.sole_use(preparation), pytest.raises(ValueError, match="the encoder gave"):
            prepare_records.decode(preparation, [0], wrong)


def test_latents_are_not_mirrored(data):
    make_latents(data)
    with pytest.raises(DataError, match="data.flip is True, but data.records holds latents"):
        next(batches.train_batches(datasets.open_dataset(data, 0, LATENTS), 0, 1, flip=True))


def test_tfds_opens_them_with_labels(data, tmp_path):
    (tmp_path / "labels.csv").write_text("subject 3,1\nsubject 4,0\n")
    data.labels = str(tmp_path / "labels.csv")
    make_latents(data)
    builder = tfds.builder_from_directory(data.records)
    dataset = datasets.open_dataset(data, 0, LATENTS)
    for side in builder.info.splits:
        found = {element["name"]: element for element in tfds.as_numpy(builder.as_dataset(split=side))}
        known = zip(
            getattr(dataset, side), batches.known(dataset, side)["class"], batches.volumes(dataset, side), strict=True
        )
        for example, label, latents in known:
            element = found[example.name.encode()]
            np.testing.assert_array_equal(element["latents"], latents)
            assert element["label"] == label


def test_labels_of_records(data, tmp_path):
    """They are the files' own, may be left unused, and are never made up."""
    make(data)
    labelled = changed(data, labels=str(tmp_path / "labels.csv"), records=str(tmp_path / "labelled"))
    (tmp_path / "labels.csv").write_text("subject 3,2\nsubject 4,0\nsubject 6-late,1\n")
    make(labelled)
    files = datasets.open_dataset(changed(labelled, records=None), 0)
    (tmp_path / "labels.csv").unlink()  # the records know
    prepared = datasets.open_dataset(changed(labelled, root=None), 0)
    assert prepared.classes == files.classes == 3 and prepared.identity() == files.identity()
    for side in ("train", "validation", "test"):
        np.testing.assert_array_equal(batches.known(prepared, side)["class"], batches.known(files, side)["class"])
    assert next(batches.train_batches(prepared, 0, 4))["class"].dtype == np.int32
    unused = datasets.open_dataset(changed(labelled, labels=None, root=None), 0)
    assert unused.classes == 0 and unused.identity() == datasets.open_dataset(data, 0).identity()
    assert "class" not in next(batches.train_batches(unused, 0, 4))
    with pytest.raises(DataError, match="was prepared without labels"):
        datasets.open_dataset(changed(labelled, records=data.records), 0)
    (tmp_path / "labels.csv").write_text("subject 3,0\n")
    with pytest.raises(DataError, match="not the labels that .* was prepared with"):
        make(labelled)


def test_records_of_before_there_were_labels_are_read(data):
    make(data)
    path = Path(data.records) / records.FILE_NAME
    content = json.loads(path.read_text())
    del content["crc32c"]
    for shard in content["shards"]:
        for key in ("label", "low", "high"):
            del shard[key]
    path.write_text(json.dumps(content))
    dataset = datasets.open_dataset(data, 0)
    assert dataset.classes == 0 and next(batches.train_batches(dataset, 0, 2))["image"].shape == (2, *SHAPE, 1)
