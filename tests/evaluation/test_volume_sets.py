import math
import shutil
import tracemalloc

import numpy as np
import pytest

from configs import folder as folder_config
from data_pipelines.batches import open_dataset, volumes
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import Volume, write
from medjax.errors import UserError
from medjax.evaluation import volume_set as module
from medjax.evaluation.scores import copies_of, copies_score
from medjax.evaluation.volume_sets import sets_of_folders, sets_of_run
from medjax.generation.files import sample_path, write_sample
from medjax.jobs.train import description
from medjax.runtime.workdir import open_workdir, read_json, write_json
from small_runs import write_scan, write_scans

COPIED = 6


def settings():
    config = folder_config.get_config("tiny")
    config.data.size, config.data.split = (16, 16, 16), (0.8, 0.1, 0.1)
    return config


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A run on 60 scans whose six samples are its last six training volumes."""
    folder = tmp_path_factory.mktemp("run")
    config = settings()
    config.data.root, config.data.cache = str(write_scans(folder / "scans", count=60)), str(folder / "cache")
    dataset = open_dataset(config.data, config.seed)
    workdir = folder / "run"
    workdir.mkdir()
    open_workdir(workdir, config.to_dict(), description(dataset))
    data = read_json(workdir / "data.json")
    for n, volume in enumerate(volumes(dataset, "train")[-COPIED:]):
        write_sample(sample_path(workdir / "samples", n), volume[..., 0], data)
    return folder, workdir, config, dataset


def voxels(each):
    """Stands for the features of a network."""
    return each.low.reshape(each.total, -1)[:, ::37]


@pytest.mark.parametrize("count", [None, 20, 3])
def test_copies_are_looked_for_among_all_training_volumes_and_all_samples_however_many_are_compared(a_run, count):
    _, workdir, config, dataset = a_run
    config = config.copy_and_resolve_references()
    config.evaluate.count = count
    sets = sets_of_run(config, workdir)
    assert (sets.train.total, sets.train.compared) == (len(dataset.train), 0)
    assert (sets.generated.total, sets.generated.compared) == (COPIED, min(COPIED, count or COPIED))
    held_out = len(dataset.validation) + len(dataset.test)
    assert (sets.real.total, sets.real.compared) == (held_out, min(held_out, count or held_out))
    found, _ = copies_of(sets, voxels, 0.01)
    assert found.copies == COPIED
    assert set(found.nearest.tolist()) == set(range(len(dataset.train) - COPIED, len(dataset.train)))
    score = copies_score(found, sets)
    assert (score.value, score.n_real, score.n_generated) == (COPIED, len(dataset.train), COPIED)
    assert f"{found.observed.count} of {found.n_null}" in score.how
    assert f"{found.observed.low:.1%} to {found.observed.high:.1%}" in score.how


def test_a_set_is_read_as_it_lies_in_the_files(a_run):
    _, workdir, config, dataset = a_run
    config = config.copy_and_resolve_references()
    config.evaluate.count = 2
    sets = sets_of_run(config, workdir)
    of_training = volumes(dataset, "train")
    np.testing.assert_array_equal(sets.train.volume(5), of_training[5, ..., 0])
    np.testing.assert_allclose(sets.generated.volume(4), of_training[-2, ..., 0], atol=1e-5)
    batches = [batch.copy() for batch in sets.generated.batches(4)]
    assert [batch.shape for batch in batches] == [(4, 16, 16, 16, 1)] * 2
    np.testing.assert_allclose(np.concatenate(batches)[:COPIED], of_training[-COPIED:], atol=1e-5)
    assert sets.train.digest != sets.generated.digest
    assert sets.train.digest == sets_of_run(config, workdir).train.digest


def test_other_data_than_the_run_has_learned_from_are_refused(a_run, tmp_path):
    """With one subject more, or another division, volumes it has learned from would be taken for new ones."""
    folder, workdir, config, _ = a_run
    other = config.copy_and_resolve_references()
    other.data.root, other.data.cache = str(tmp_path / "scans"), str(tmp_path / "cache")
    shutil.copytree(folder / "scans", tmp_path / "scans")
    assert sets_of_run(other, workdir).train.total
    write_scan(tmp_path / "scans/one_more/t1.nii.gz", seed=99)
    with pytest.raises(UserError, match="other data than these: one_more/t1.nii.gz is new; .*data.root") as refused:
        sets_of_run(other, workdir)
    assert "\n" not in str(refused.value)


def test_where_the_run_does_not_know_its_data_that_is_said(a_run, tmp_path):
    _, workdir, config, _ = a_run
    shutil.copytree(workdir, tmp_path / "run")
    known = read_json(tmp_path / "run/data.json")
    write_json(tmp_path / "run/data.json", known | {"identity": None})
    assert "taken on trust" in sets_of_run(config, tmp_path / "run").notes[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twelve real and eight generated volumes of 48^3 voxels."""
    folder = tmp_path_factory.mktemp("sets")
    for n in range(20):
        name = f"real/patient_{n}/t1.nii.gz" if n < 12 else f"generated/sample_{n}.nii.gz"
        write_scan(folder / name, seed=n, shape=(48, 48, 48), affine=np.eye(4))
    return folder


def test_reading_takes_little_more_memory_than_what_is_counted(folders):
    evaluate = settings().evaluate
    sets_of_folders(folders / "real", folders / "generated", evaluate)  # imports
    counted = 4 * (20 * 48**3 + 20 * 32**3)
    tracemalloc.start()
    try:
        sets = sets_of_folders(folders / "real", folders / "generated", evaluate)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    held = sum(each.low.nbytes + each.volumes.nbytes for each in (sets.real, sets.generated))
    assert held == counted
    assert peak < 1.5 * counted


def test_memory_is_counted_of_both_sets_together(folders, monkeypatch):
    evaluate = settings().evaluate
    either = 4 * 12 * (48**3 + 2 * 32**3)
    monkeypatch.setattr(module, "memory_size", lambda: math.ceil(either / module.SHARE_OF_MEMORY))
    with pytest.raises(UserError, match="20 volumes of .48, 48, 48. and small copies of 20 .*set evaluate.count"):
        sets_of_folders(folders / "real", folders / "generated", evaluate)
    evaluate.count = 4
    sets = sets_of_folders(folders / "real", folders / "generated", evaluate)
    assert (sets.real.compared, sets.real.total) == (4, 12)


def constant(path, value):
    write(path, Volume(np.full((48, 48, 48), value, np.float32), np.eye(4)))


@pytest.mark.parametrize("intensities", ["shared", "each"])
def test_a_generated_volume_of_one_value_is_kept_and_a_real_one_refused(folders, tmp_path, intensities):
    evaluate = settings().evaluate
    evaluate.intensities = intensities
    for name in ("real", "generated"):
        shutil.copytree(folders / name, tmp_path / name)
    constant(tmp_path / "generated/sample_15.nii.gz", 600)
    sets = sets_of_folders(tmp_path / "real", tmp_path / "generated", evaluate)
    assert [sets.generated.names[row] for row in sets.generated.flat] == ["sample_15.nii.gz"]
    assert sets.real.flat == ()
    assert np.isfinite(sets.generated.volumes).all()
    constant(tmp_path / "real/patient_3/t1.nii.gz", 600)
    with pytest.raises(DataError, match=r"patient_3/t1.nii.gz: every voxel is 600"):
        sets_of_folders(tmp_path / "real", tmp_path / "generated", evaluate)


@pytest.mark.parametrize("intensities", ["shared", "each"])
def test_all_generated_volumes_that_are_no_numbers_are_named_in_one_line(folders, tmp_path, intensities):
    evaluate = settings().evaluate
    evaluate.intensities = intensities
    shutil.copytree(folders / "generated", tmp_path / "generated")
    for n in (13, 17):
        constant(tmp_path / f"generated/sample_{n}.nii.gz", np.nan)
    with pytest.raises(
        UserError, match=r"^2 of 8 generated volumes .*sample_13.nii.gz \(110592 of.*sample_17"
    ) as refused:
        sets_of_folders(folders / "real", tmp_path / "generated", evaluate)
    assert "\n" not in str(refused.value)
