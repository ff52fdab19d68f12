"""Intensities on the standard scale of the training scans: found, kept, and refused where they cannot be."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import batches, datasets, nyul, prepare_records
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.preprocessing import LABELS
from data_pipelines.readers import folder
from data_pipelines.records import Latents
from data_pipelines.settings import preprocessing_of
from prepared import changed, make
from test_batches import settings
from test_nyul import SHAPE, scan

QUANTILES = (0.001, 0.999)
SUBJECTS = 9


def written(root: Path, n: int, **scanner) -> Path:
    path = root / f"sub{n:02d}/t1.nii.gz"
    nifti.write(path, Volume(scan(n, **scanner), np.eye(4)))
    return path


def scanner(n: int) -> dict[str, float]:
    """A gain, an offset and a curve of its own for each subject."""
    return {"gain": 1 + n / 3, "offset": 30.0 * n, "gamma": 0.7 + n / 20}


@pytest.fixture
def data(tmp_path):
    """Scans of nine subjects, one scanner each."""
    for n in range(SUBJECTS):
        written(tmp_path / "scans", n, **scanner(n))
    return settings(
        root=str(tmp_path / "scans"), cache=str(tmp_path / "cache"), size=SHAPE, window="quantile", window_range=QUANTILES,
        split=(0.6, 0.2, 0.2), split_seed=2, standardise="nyul",
    )  # fmt: skip


def scale_of(dataset) -> np.ndarray:
    (scale,) = dataset.identity()["preprocessing"]["scales"]
    return np.array(scale)


def scale_by_hand(arrays) -> np.ndarray:
    """Percentiles, straight lines and means written out."""
    landmarks, ends = [], []
    for array in arrays:
        foreground = array[array > array.mean()].astype(np.float64)
        points = [np.quantile(array, QUANTILES[0]), *(np.quantile(foreground, p / 100) for p in nyul.PERCENTILES)]
        landmarks.append((np.array(points) - points[0]) / (points[-1] - points[0]))
        ends.append((np.quantile(array, QUANTILES[1]) - points[0]) / (points[-1] - points[0]))
    scale = np.mean(landmarks, axis=0)
    beyond = []
    for end, of_scan in zip(ends, landmarks, strict=True):
        slope = (scale[-1] - scale[-2]) / (of_scan[-1] - of_scan[-2])
        beyond.append(scale[-1] + (end - of_scan[-1]) * slope if end > 1 else np.interp(end, of_scan, scale))
    return 2 * scale / np.mean(beyond) - 1


def test_the_scale_is_that_of_the_training_scans_alone_as_written_out_by_hand(data):
    dataset = datasets.open_dataset(data, 0)
    training = [int(example.subject.removeprefix("sub")) for example in dataset.train]
    assert 1 < len(training) < SUBJECTS
    expected = scale_by_hand([scan(n, **scanner(n)) for n in training])
    np.testing.assert_allclose(scale_of(dataset), expected, atol=1e-5)
    assert expected[0] == -1 and 0 < expected[-1] < 1.001


def test_volumes_are_piecewise_linear_maps_onto_the_scale_clipped_to_its_window(data):
    dataset = datasets.open_dataset(data, 0)
    example = dataset.test[0]
    array = scan(n := int(example.subject.removeprefix("sub")), **scanner(n))
    foreground = array[array > array.mean()]
    points = [np.quantile(array, QUANTILES[0]), *np.percentile(foreground, nyul.PERCENTILES)]
    inside = (array >= points[0]) & (array <= points[-1])
    expected = np.interp(array, points, scale_of(dataset))
    found = batches.volumes(dataset, "test", 1)[0, ..., 0]
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    assert (found[array < points[0]] == -1).all() and found.min() == -1 and found.max() <= 1
    assert (found[array > points[-1]] >= scale_of(dataset)[-1] - 1e-6).all()


def test_landmarks_of_scans_from_different_scanners_agree_where_they_did_not_before(data):
    def spread(dataset) -> float:
        of_all = [batches.volumes(dataset, side)[..., 0] for side in ("train", "validation", "test")]
        inner = [np.percentile(array[array > array.mean()], (10, 30, 50, 70, 90)) for array in np.concatenate(of_all)]
        return np.ptp(inner, axis=0).max()

    assert spread(datasets.open_dataset(changed(data, standardise=None), 0)) > 0.2
    assert spread(datasets.open_dataset(data, 0)) < 0.05


def test_off_nothing_changes(data):
    """Identities and places in the cache are as they were before there was the key."""
    for off in (None, ""):
        dataset = datasets.open_dataset(changed(data, standardise=off), 0)
        assert "scales" not in dataset.identity()["preprocessing"]
    assert not (Path(data.cache) / "scales").exists()


def test_background_that_is_masked_stays_the_darkest_whatever_the_share_of_it():
    scale = tuple(np.linspace(-1, 0.9, 12).tolist())
    for pad in (0, 12):
        array = np.pad(scan(1, gain=2), pad)
        found = nyul.measured(array, QUANTILES)
        assert (nyul.standardised(array, found.landmarks, np.array(scale))[array == 0] == -1).all()


def test_label_maps_are_not_touched_and_each_image_has_its_own_scale(tmp_path):
    labels = (np.indices(SHAPE).sum(axis=0) % 4).astype(np.float32)
    for name, array in (("t1", scan(0)), ("t2", scan(1, gamma=2.0)), ("seg", labels)):
        nifti.write(tmp_path / f"{name}.nii.gz", Volume(array, np.eye(4)))
    case = Case("a", "a", {name: tmp_path / f"{name}.nii.gz" for name in ("t1", "t2")}, tmp_path / "seg.nii.gz")
    plain = folder.Preprocessing(SHAPE)
    measured = plain.measured(case)
    assert list(measured) == ["t1", "t2"]
    scales = (tuple(np.linspace(-1, 0.9, 12).tolist()), tuple((np.linspace(0, 1, 12) ** 2 * 1.9 - 1).tolist()))
    arrays = dataclasses.replace(plain, scales=scales)(case)
    np.testing.assert_array_equal(arrays[LABELS].array, labels)
    for scale, (name, of_image) in zip(scales, measured.items(), strict=True):
        at = np.abs(nifti.read(case.images[name]).array - of_image.landmarks[6]).argmin()
        assert arrays[name].array.flat[at] == pytest.approx(scale[6], abs=0.02)


def test_the_scale_is_looked_for_once_and_a_recorded_one_is_kept(data, monkeypatch, capsys):
    first = datasets.open_dataset(data, 0)
    monkeypatch.setattr(folder.Preprocessing, "measured", None)
    assert datasets.open_dataset(data, 0).identity() == first.identity()
    identity = json.loads(json.dumps(first.identity()))
    identity["preprocessing"]["scales"] = [np.linspace(-1, 0.5, 12).tolist()]
    kept = datasets.open_dataset(data, 0, recorded={"identity": identity})
    np.testing.assert_allclose(scale_of(kept), np.linspace(-1, 0.5, 12))
    assert not np.array_equal(batches.volumes(kept, "test"), batches.volumes(first, "test"))
    np.testing.assert_array_equal(
        batches.first_volumes(data, 1, {"identity": identity}),
        preprocessing_of(data, ((*np.linspace(-1, 0.5, 12),),))(
            Case("", "", {"image": Path(data.root) / "sub00/t1.nii.gz"})
        )["image"].array[None, ..., None],
    )
    assert datasets.found_identity(data, {"identity": identity})["preprocessing"] == identity["preprocessing"]


@pytest.mark.parametrize(
    "scales", [[], "x", [[1, 2]], [[*range(11), float("nan")]], [[*range(11, -1, -1)]], [["a"] * 12]]
)
def test_a_damaged_record_of_the_scale_is_told(data, scales):
    with pytest.raises(DataError, match="data.json of this run is damaged"):
        datasets.open_dataset(data, 0, recorded={"identity": {"preprocessing": {"scales": scales}}})


def test_a_damaged_scale_in_the_cache_is_made_again(data):
    first = datasets.open_dataset(data, 0)
    (path,) = (Path(data.cache) / "scales").glob("*.json")
    for text in ("{", "[]", '{"identity": {"preprocessing": {"scales": [[1]]}}}'):
        path.write_text(text)
        assert datasets.open_dataset(data, 0).identity() == first.identity()


def test_another_training_split_has_another_scale(data):
    assert not np.array_equal(*(scale_of(datasets.open_dataset(changed(data, split_seed=seed), 0)) for seed in (2, 5)))


def test_records_carry_the_scale(data, tmp_path):
    files = datasets.open_dataset(data, 0)
    kept = changed(data, records=str(tmp_path / "records"))
    make(kept)
    prepared = datasets.open_dataset(changed(kept, root=None), 0)
    assert prepared.identity() == files.identity()
    np.testing.assert_allclose(batches.volumes(prepared, "test"), batches.volumes(files, "test"), atol=5e-4)
    for opened in (lambda d: datasets.open_dataset(d, 0), make):
        with pytest.raises(DataError, match="data.standardise is None, but .* was prepared with nyul"):
            opened(changed(kept, standardise=None))


def test_records_are_prepared_on_a_run_s_scale_if_its_scans_are_all_there(data, tmp_path):
    run = datasets.open_dataset(data, 0)
    recorded = {"identity": run.identity(), "scans": run.digests}
    for n in range(SUBJECTS, SUBJECTS + 4):
        written(Path(data.root), n, gamma=2.0)
    kept = changed(data, records=str(tmp_path / "records"))
    own, of_run = prepare_records.plan(kept), prepare_records.plan(kept, recorded=recorded)
    assert of_run.parameters["preprocessing"] == run.identity()["preprocessing"] != own.parameters["preprocessing"]
    written(Path(data.root), 0, gamma=2.0)
    another = prepare_records.plan(kept, recorded=recorded)
    assert another.parameters["preprocessing"] != run.identity()["preprocessing"]


def test_records_of_another_scale_are_not_gone_on_with(data, tmp_path):
    run = datasets.open_dataset(data, 0)
    kept = changed(data, records=str(tmp_path / "records"))
    make(kept)
    identity = json.loads(json.dumps(run.identity()))
    identity["preprocessing"]["scales"][0][-1] += 0.01
    preparation = prepare_records.plan(kept, recorded={"identity": identity, "scans": run.digests})
    with pytest.raises(DataError, match="was prepared on another scale of intensities"):
        prepare_records.is_finished(preparation)


def test_one_training_subject_is_told(data, capsys):
    table = Path(data.root).parent / "sides.csv"
    sides = ["train", "validation", "test", *["test"] * (SUBJECTS - 3)]
    table.write_text("subject,split\n" + "".join(f"sub{n:02d},{side}\n" for n, side in enumerate(sides)))
    assert len(datasets.open_dataset(changed(data, split_table=str(table)), 0).train) == 1
    assert "the scale is of the one training subject alone" in capsys.readouterr().err


def test_a_training_scan_without_contrast_is_named_or_skipped(data):
    training = datasets.open_dataset(data, 0).train[0].subject
    array = np.zeros(SHAPE, np.float32)
    array[0, 0, 0] = 1
    nifti.write(Path(data.root) / training / "t1.nii.gz", Volume(array, np.eye(4)))
    with pytest.raises(DataError, match=f"{training}/t1.nii.gz: no contrast in the window 0 to 0"):
        datasets.open_dataset(data, 0)
    assert datasets.open_dataset(changed(data, skip_bad_files=True), 0).skipped == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"standardise": "z-score"}, "data.standardise is 'z-score'; use one of nyul$"),
        ({"name": "atlas"}, "made-up scans are of one scale"),
        ({"name": "synthetic"}, "made-up scans are of one scale"),
        ({"root": None, "atlas_layout": True}, "made-up scans are of one scale"),
        ({"name": "lidc"}, "data.name=lidc has intensities as published"),
        ({"name": "brats"}, "data.name=brats has intensities as published"),
        ({"window": "fixed", "window_range": (0.0, 1000.0)}, "data.window='fixed' is for intensities that have a unit"),
    ],
)
def test_what_cannot_be_is_refused(data, changes, message):
    changes = {"root": None} | changes if changes.get("name") in ("atlas", "synthetic") else changes
    with pytest.raises(DataError, match=message):
        datasets.open_dataset(changed(data, **changes), 0)


def test_latents_and_starts_without_a_scale_are_refused(data, tmp_path):
    latents = Latents({}, (2, 2, 2, 1))
    with pytest.raises(DataError, match="on latents, whose encoder has a scale of its own"):
        datasets.open_dataset(data, 0, latents)
    with pytest.raises(DataError, match="on latents"):
        prepare_records.plan(changed(data, records=str(tmp_path / "records")), latents)
    with pytest.raises(DataError, match="no scale is recorded"):
        preprocessing_of(data)
