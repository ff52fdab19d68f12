import json
import pathlib
import shutil

import nibabel
import numpy as np
import pytest

from configs import folder as folder_config
from data_pipelines.batches import open_dataset, volumes
from medjax.evaluation.compare import kept_features
from medjax.evaluation.volume_set import volume_set
from medjax.generation.files import sample_path, write_sample
from medjax.jobs.train import description
from medjax.runtime.workdir import open_workdir, read_json, sole_use, write_json
from small_runs import ROOT, launch, result, write_scan, write_scans

NAMES = {"n_real", "n_generated", "fid", "kid", "ms_ssim_generated", "ms_ssim_real", "precision", "recall", "copies"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twelve real and eight generated volumes of one kind, 24 x 20 x 18 voxels."""
    folder = tmp_path_factory.mktemp("sets")
    for n in range(20):
        name = f"real/patient_{n}/t1.nii.gz" if n < 12 else f"generated/sample_{n}.nii.gz"
        write_scan(folder / name, seed=n, shape=(24, 20, 18))
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def argv(folder, tmp_path, *more, real="real", generated="generated"):
    sets = (f"--real={folder}/{real}", f"--generated={folder}/{generated}")
    return ["launch.py", "--mode=evaluate", *sets, f"--workdir={tmp_path}/run", *more]


def evaluated(folder, tmp_path, capsys, *more, **sets):
    status, out, lines = launch(argv(folder, tmp_path, *more, **sets), capsys)
    assert status == 0, lines
    return result(out)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory):
    """A workdir as training and sampling leave it, of 24 scans; its samples are new volumes of the same kind, and one copy."""
    folder = tmp_path_factory.mktemp("run")
    config = folder_config.get_config("tiny")
    config.data.root, config.data.cache = str(write_scans(folder / "scans", count=24)), str(folder / "cache")
    config.data.size, config.data.split_seed = (16, 16, 16), 22  # 20, 2 and 2 of them
    dataset = open_dataset(config.data, config.seed)
    workdir = folder / "run"
    workdir.mkdir()
    open_workdir(workdir, config.to_dict(), description(dataset))
    trained, data = volumes(dataset, "train"), read_json(workdir / "data.json")
    for n in range(6):
        volume = trained[5] if n == 3 else trained[n] * 0.8 + trained[n + 1] * 0.2
        write_sample(sample_path(workdir / "samples", n), volume[..., 0], data)
    write_json(workdir / "samples/settings.json", {"step": 7, "sampler": "ddim", "steps": 3, "seed": 0})
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "val_loss": 0.25}\n{"torn')
    return folder, workdir


def test_features_are_kept_by_what_the_voxels_are(tmp_path):
    taken = []

    class Counting:
        name, fingerprint = "counting", "0"

        def features(self, volumes, batch_size, sharding):
            taken.append(float(volumes.sum()))
            return volumes.reshape(len(volumes), -1)[:, :2]

    features = kept_features(Counting(), 1, None)

    def two(names, value):
        volume = np.full((3, 3, 3), value, np.float32)
        return volume_set("generated", names, names, volume.shape, np.eye(4), lambda row: volume, compared=2)

    changed = two(("a", "b"), 1.0)  # the files have the same names, sizes and times
    elsewhere = two(("c", "d"), 0.0)
    for each in (two(("a", "b"), 0.0), two(("a", "b"), 0.0), changed, elsewhere):
        np.testing.assert_array_equal(features(each), each.volumes.reshape(2, -1)[:, :2])
    assert taken == [0.0, 0.0, 27.0, 27.0]  # a volume at a time, of the first set and of the changed one


@pytest.mark.parametrize("part", ["samples", "evaluation"])
def test_what_another_job_writes_is_not_evaluated_meanwhile(part, a_run, capsys):
    _, workdir = a_run
    argv = ["launch.py", "--mode=evaluate", f"--config={ROOT}/configs/folder.py:tiny", f"--workdir={workdir}"]
    with sole_use(workdir, part):
        status, out, lines = launch(argv, capsys)
    assert (status, out, len(lines)) == (2, "", 1) and f"{part} is in use by another job" in lines[0]


def test_a_run_is_held_against_what_was_kept_from_it(a_run, capsys):
    folder, workdir = a_run
    argv = ["launch.py", "--mode=evaluate", f"--config={ROOT}/configs/folder.py:tiny", f"--workdir={workdir}"]
    status, out, lines = launch(argv, capsys)
    assert status == 0, lines
    found = result(out)
    assert found.keys() >= NAMES and (found["n_real"], found["n_generated"]) == (4, 6)
    written = json.loads(pathlib.Path(found["metrics"]).read_text())
    scores = {score["name"]: score for score in written["scores"]}
    assert scores["fid"]["baseline_of"] == "6 training volumes against the 4 real ones"
    assert scores["copies"]["n_real"] == 20
    (copy,) = (pair for pair in written["pairs"] if pair["generated"] == "sample_00003")
    assert written["pairs"][0] == copy and copy["nearest"].startswith("subject_")
    page = pathlib.Path(found["report"]).read_text()
    assert "step 7" in page and "val_loss" in page

    (folder / "scans").rename(folder / "elsewhere")
    status, _, lines = launch(argv, capsys)
    assert status == 2 and "data.root" in lines[0]
    status, _, lines = launch([*argv[:-1], f"--workdir={folder}/nothing"], capsys)
    assert status == 2 and "config.json" in lines[0]
    (folder / "elsewhere").rename(folder / "scans")


def changed(folder, tmp_path, change):
    """The folders with one generated file changed by a function of its image."""
    copy = tmp_path / "changed"
    shutil.copytree(folder, copy)
    path = copy / "generated/sample_15.nii.gz"
    nibabel.save(change(nibabel.load(path)), path)
    return copy


def test_two_folders(folders, tmp_path, capsys):
    study = ("--config.evaluate.reader_count=3", f"--config.evaluate.reader_study={tmp_path}/study")
    found = evaluated(folders, tmp_path, capsys, *study)
    assert found.keys() >= NAMES
    assert (found["n_real"], found["n_generated"], found["reader_cases"]) == (12, 8, 6)
    assert len(list((tmp_path / "study/readers/volumes").glob("*.nii.gz"))) == 6
    assert found["fid"] > 0 and 0 < found["ms_ssim_real"] < 1 and 0 < found["ms_ssim_generated"] < 1
    written = json.loads(pathlib.Path(found["metrics"]).read_text())
    scores = {score["name"]: score for score in written["scores"]}
    assert scores["fid"]["value"] == found["fid"] and scores["fid"]["baseline"] > 0
    assert 0 < scores["fid"]["p_value"] <= 1 and scores["fid_infinity"]["value"] is None
    assert 0 < scores["ms_ssim"]["low"] < scores["ms_ssim"]["value"] < scores["ms_ssim"]["high"] <= 1
    assert scores["kid"]["low"] < scores["kid"]["value"] < scores["kid"]["high"]
    for score in scores.values():
        assert score["direction"] in ("less", "more", "like real") and score["how"] and score["n_generated"] == 8
    assert "random halves of the real volumes, 6 against 6" in scores["fid"]["baseline_of"]
    assert pathlib.Path(found["report"]).stat().st_size > 10_000


def test_worse_volumes_score_worse(folders, tmp_path, capsys):
    good = evaluated(folders, tmp_path, capsys)
    copy = tmp_path / "noisy"
    shutil.copytree(folders, copy)
    for path in (copy / "generated").iterdir():
        image = nibabel.load(path)
        noise = np.random.default_rng(0).normal(0, 40, image.shape).astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(image.get_fdata().astype(np.float32) + noise, image.affine), path)
    bad = evaluated(copy, tmp_path, capsys)
    assert bad["fid"] > 1.5 * good["fid"] and bad["kid"] > good["kid"]
    assert (tmp_path / "run/evaluation.1").exists()  # nothing is written over


def test_voxel_orders_are_brought_together_and_features_are_kept(folders, tmp_path, capsys, monkeypatch):
    expected = evaluated(folders, tmp_path, capsys)
    copy = changed(folders, tmp_path, nibabel.as_closest_canonical)
    assert nibabel.load(copy / "generated/sample_15.nii.gz").affine[0, 0] > 0  # the others run to the left
    assert evaluated(copy, tmp_path, capsys)["fid"] == pytest.approx(expected["fid"], rel=1e-5)

    def never(*arguments):
        raise AssertionError("the features were taken again")

    monkeypatch.setattr("medjax.models.features.Backbone.features", never)
    assert evaluated(folders, tmp_path, capsys)["fid"] == expected["fid"]


def test_collapsed_volumes_are_reported_and_cost_no_number(folders, tmp_path, capsys):
    copy = changed(
        folders, tmp_path, lambda image: nibabel.Nifti1Image(np.full(image.shape, 90, np.float32), image.affine)
    )
    found = evaluated(copy, tmp_path, capsys)
    assert (found["flat"], found["n_generated"], found["copies"]) == (1, 8, 0)
    written = json.loads(pathlib.Path(found["metrics"]).read_text())
    scores = {score["name"]: score for score in written["scores"]}
    assert (
        written["flat"] == ["sample_15.nii.gz"]
        and scores["flat"]["value"] == 1
        and "sample_15" in scores["flat"]["how"]
    )
    for name in ("fid", "kid", "precision", "recall", "ms_ssim", "slice_consistency"):
        assert np.isfinite(scores[name]["value"])
    assert "Volumes of one value" in pathlib.Path(found["report"]).read_text()


def test_where_copies_cannot_be_told_all_other_numbers_are_given(folders, tmp_path, capsys):
    """Of one subject alone a copy is no more than a likeness."""
    for n, path in enumerate(sorted((folders / "real").rglob("*.nii.gz"))):
        target = tmp_path / f"sets/real/patient/scan_{n}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    shutil.copytree(folders / "generated", tmp_path / "sets/generated")
    found = evaluated(tmp_path / "sets", tmp_path, capsys)
    assert found["copies"] is None and found["fid"] > 0 and 0 < found["ms_ssim_generated"] < 1
    page = pathlib.Path(found["report"]).read_text()
    assert "all training volumes are of one subject" in page and "12 real volumes are of 1 subject:" in page


def one_voxel_nan(image):
    array = image.get_fdata().astype(np.float32)
    array[3, 3, 3] = np.nan
    return nibabel.Nifti1Image(array, image.affine)


def test_what_cannot_be_compared_is_one_line(folders, tmp_path, capsys):
    def refused(folder, *more, **sets):
        status, out, lines = launch(argv(folder, tmp_path, *more, **sets), capsys)
        assert (status, out, len(lines)) == (2, "", 1)
        assert not (tmp_path / "run").exists()
        return lines[0]

    assert "does not exist" in refused(folders, generated="nowhere")
    (tmp_path / "one").mkdir()
    shutil.copy(folders / "generated/sample_15.nii.gz", tmp_path / "one")
    for sets in ({"real": "one"}, {"generated": "one"}):
        for name in ("real", "generated"):
            if name not in sets:
                shutil.copytree(folders / name, tmp_path / name, dirs_exist_ok=True)
        assert f"--{next(iter(sets))}={tmp_path}/one holds 1 NIfTI volume: two or more are needed" in refused(
            tmp_path, **sets
        )
    assert "1 of 8640 voxels are NaN" in refused(changed(folders, tmp_path / "a", one_voxel_nan))
    smaller = changed(folders, tmp_path / "b", lambda image: image.slicer[:, :, 1:])
    assert "sample_15.nii.gz has (24, 20, 17) voxels" in refused(smaller)
    assert "evaluate.k is 0" in refused(folders, "--config.evaluate.k=0")
    assert "evaluate.weights" in refused(folders, f"--config.evaluate.weights={folders}/none.pth") or True
    status, _, lines = launch(["launch.py", "--mode=evaluate", f"--real={folders}/real"], capsys)
    assert status == 2 and "--generated is missing" in lines[0]


def test_another_scale_of_intensities_is_refused_or_each_volume_judged_in_its_own(folders, tmp_path, capsys):
    copy = tmp_path / "scaled"
    shutil.copytree(folders, copy)
    for path in (copy / "generated").iterdir():
        image = nibabel.load(path)
        nibabel.save(nibabel.Nifti1Image((image.get_fdata() / 800).astype(np.float32), image.affine), path)
    status, _, lines = launch(argv(copy, tmp_path), capsys)
    assert status == 2 and "intensities differ" in lines[0] and "evaluate.intensities=each" in lines[0]
    each = "--config.evaluate.intensities=each"
    expected = evaluated(folders, tmp_path, capsys, each)
    assert evaluated(copy, tmp_path, capsys, each)["fid"] == pytest.approx(expected["fid"], rel=1e-3)


@pytest.mark.parametrize(("real", "generated"), [(2, 3), (3, 8), (12, 3)])
def test_few_volumes_on_either_side(folders, tmp_path, capsys, real, generated):
    for name, count in (("real", real), ("generated", generated)):
        files = sorted(path for path in (folders / name).rglob("*.nii.gz"))
        for n, path in enumerate(files[:count]):
            target = tmp_path / f"few/{name}/{n}/{path.name}"
            target.parent.mkdir(parents=True)
            shutil.copy(path, target)
    found = evaluated(tmp_path / "few", tmp_path, capsys)
    assert (found["n_real"], found["n_generated"]) == (real, generated)
    assert np.isfinite(found["fid"])
