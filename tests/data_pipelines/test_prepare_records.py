from pathlib import Path

import pytest

from data_pipelines import batches, datasets, prepare_records, records
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.splits import SPLITS
from prepared import N, changed, contents, make, scans_to_prepare
from test_batches import settings


@pytest.fixture
def data(tmp_path):
    return scans_to_prepare(tmp_path)


def refused(data, expected):
    with pytest.raises(DataError) as raised:
        make(data)
    assert str(raised.value).startswith(expected) and "\n" not in str(raised.value)


@pytest.fixture
def reference(data, tmp_path) -> dict[str, bytes]:
    """What preparing without interruption makes."""
    make(changed(data, records=str(tmp_path / "reference")))
    return contents(tmp_path / "reference")


def test_goes_on_where_it_was_interrupted(data, reference, monkeypatch):
    preparation = prepare_records.plan(data)
    with prepare_records.sole_use(preparation):
        prepare_records.decode(preparation, [0, 3, 4])
    # Killed while writing: a shard that nothing notes.
    preparation.shard(5).write_bytes(b"half a volume")
    refusal = f"data.records={data.records}: no records.json in it"
    with pytest.raises(DataError, match=refusal):
        datasets.open_dataset(data, 0)

    assert prepare_records.missing(preparation) == [1, 2, 5, 6, 7, 8]
    with monkeypatch.context() as killed:  # after some shards have got their names
        killed.setattr(records, "write_tfds_metadata", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(data)
    named = sorted(Path(data.records).glob("folder-*"))
    assert len(named) == N
    with pytest.raises(DataError, match=refusal):
        datasets.open_dataset(data, 0)
    assert prepare_records.missing(preparation) == []
    waiting = records.load(preparation.unfinished / records.FILE_NAME)
    waiting.paths(preparation.folder)[2].rename(preparation.shard(2))  # as if it had not got its name yet
    make(data)
    assert contents(data.records) == reference and not preparation.unfinished.exists()


def test_prepared_again_nothing_is_written(data, reference):
    make(data)
    before = {path: path.stat().st_mtime_ns for path in Path(data.records).iterdir()}
    make(data)
    assert {path: path.stat().st_mtime_ns for path in Path(data.records).iterdir()} == before
    assert contents(data.records) == reference


def test_only_one_run_prepares_a_folder(data):
    with prepare_records.sole_use(prepare_records.plan(data)):
        refused(data, f"data.records={data.records}: another run is preparing it")


def test_what_is_not_ours_is_left_alone(data):
    folder = Path(data.records)
    folder.mkdir()
    (folder / "thesis.tex").write_text("years")
    refused(data, f"data.records={folder}: holds thesis.tex, which is no record")
    assert contents(folder) == {"thesis.tex": b"years"}
    (folder / "thesis.tex").unlink()
    (folder / "unfinished").mkdir()
    (folder / "unfinished/thesis.tex").write_text("years")
    refused(data, f"data.records={folder}: holds thesis.tex, which is no record")
    (folder / "unfinished/thesis.tex").unlink()
    make(data)  # as a run that was killed before it had begun left it


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_need_another_folder(data, finished):
    if finished:
        make(data)
    else:
        with prepare_records.sole_use(prepare_records.plan(data)):
            pass
    before = contents(data.records)
    refused(changed(data, window_range=(0.0, 900.0)), "data.window_range is [0.0, 900.0], but ")
    refused(changed(data, size=(4, 4, 4)), "data.size is [4, 4, 4], but ")
    refused(changed(data, name="atlas", root=None), "data.name is atlas, but ")
    (Path(data.root) / "subject 3").rename(Path(data.root) / "subject 33")
    refused(data, "data.root: not the scans that ")
    assert contents(data.records) == before


def test_bad_scans(data, capsys):
    bad = [Path(data.root) / f"subject {n}/t1.nii.gz" for n in (1, 2, 4)]
    whole = [path.read_bytes() for path in bad]
    for path, content in zip(bad, whole, strict=True):
        path.write_bytes(content[:200] + bytes(len(content) - 200))
    refused(data, f"{bad[0]}: ")
    bad[0].write_bytes(whole[0])
    refused(data, f"{bad[1]}: ")
    data.skip_bad_files = True
    make(data)
    *_, skipped = [line for line in capsys.readouterr().err.splitlines() if "cannot be read" in line]
    assert ": 2 " in skipped and "such as subject 2/t1.nii.gz" in skipped
    files, prepared = (datasets.open_dataset(changed(data, records=kept), 0) for kept in (None, data.records))
    assert prepared.skipped == files.skipped == 2 and prepared.identity() == files.identity()
    for side in SPLITS:
        assert [e.name for e in getattr(files, side)] == [e.name for e in getattr(prepared, side)]


def test_a_scan_that_changes_under_way_is_decoded_again_and_later_refused(data, tmp_path):
    preparation = prepare_records.plan(data)
    with prepare_records.sole_use(preparation):
        prepare_records.decode(preparation, [0, 3])
    path = Path(data.root) / "subject 0/t1.nii.gz"
    volume = nifti.read(path)
    nifti.write(path, Volume(volume.array[::-1], volume.affine))
    missing = prepare_records.missing(prepare_records.plan(data))
    assert 0 in missing and 3 not in missing
    make(data)
    make(changed(data, records=str(tmp_path / "reference")))
    assert contents(data.records) == contents(tmp_path / "reference")
    nifti.write(path, volume)
    refused(
        data,
        f"data.root: not the scans that {data.records} was prepared from (subject 0/t1.nii.gz holds something else)",
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"records": None}, "data.records is not set"),
        ({"name": "synthetic", "root": None}, "data.name is synthetic, which has no files"),
        ({"root": "/nowhere"}, "data.root=/nowhere: does not exist"),
        ({"records": "/proc/records"}, "/proc/records: cannot be written to"),
        (
            {"records": "s3://bucket/records"},
            "data.records=s3://bucket/records: cannot be written (File system scheme 's3'",
        ),
    ],
)
def test_what_cannot_be_prepared(data, changes, expected):
    refused(changed(data, **changes), expected)


@pytest.mark.parametrize("name", ["atlas", "adni", "brats", "duke", "lidc", "mrnet"])
def test_every_reader(tmp_path, name):
    changes = {"orientation": "native", "spacing": (5.5,) * 3} if name == "lidc" else {}
    data = settings(
        name=name, cache=str(tmp_path), size=(32, 32, 32), atlas_layout=name != "atlas",
        records=str(tmp_path / "records"), **changes,
    )  # fmt: skip
    make(data)
    files, prepared = (datasets.open_dataset(changed(data, records=kept), 0) for kept in (None, data.records))
    assert prepared.identity() == files.identity()
    ours, theirs = (next(batches.train_batches(dataset, 0, 3))["image"] for dataset in (prepared, files))
    assert abs(ours - theirs).max() < 2.5e-4


def test_what_is_doubtful_is_told_once_when_all_is_prepared(data, capsys):
    asked = changed(data, window="quantile", window_range=(0.0, 1.0), fit="crop")
    for path in sorted(Path(data.root).rglob("*.nii.gz"))[:4]:
        volume = nifti.read(path)
        volume.array[:2] = 63536
        nifti.write(path, volume)
    make(asked)
    told = [line for line in capsys.readouterr().err.splitlines() if "far from all others" in line]
    assert len(told) == 1 and told[0].startswith("4 files: ") and "of the voxels are 63536" in told[0]
    assert "notices" not in (Path(data.records) / "records.json").read_text()
