import os
import shutil

import jax
import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.workdir import read_json, sole_use, write_json
from small_runs import command, ends, launch, result, snapshot, write_scans
from small_runs import start as start_process


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    import launch

    folder = tmp_path_factory.mktemp("trained")
    scans = write_scans(folder / "scans")
    window = (
        "--config.data.window=fixed",
        "--config.data.window_range=(0.0,900.0)",
        "--config.data.orientation=native",
    )
    argv = command(scans, folder, *window, "--config.train.steps=30", "--config.optimizer.learning_rate=1e-2")
    assert launch.main(argv) == 0
    return folder, [*argv, "--mode=sample"]


def draw(argv, capsys):
    status, out, lines = launch(argv, capsys)
    assert status == 0, lines
    return result(out)


def load(folder, i):
    return nibabel.load(folder / f"run/samples/sample_{i:05d}.nii.gz")


def test_samples_open_beside_the_training_data(trained, capsys):
    folder, argv = trained
    found = draw(argv, capsys)
    assert found["count"] == 2
    assert found["seconds_per_volume"] > 0
    assert [path.rsplit("/")[-1] for path in found["files"]] == ["sample_00000.nii.gz", "sample_00001.nii.gz"]
    sample = load(folder, 0)
    source = nibabel.load(folder / "scans/subject_0/t1.nii.gz")
    assert nibabel.aff2axcodes(sample.affine) == nibabel.aff2axcodes(source.affine) == ("L", "A", "S")
    # The same place: the centre of the field of view stays where it was.
    centres = [image.affine @ [*((np.array(image.shape) - 1) / 2), 1] for image in (sample, source)]
    np.testing.assert_allclose(*centres, atol=1e-4)
    assert sample.get_data_dtype() == np.float32
    values = sample.get_fdata()
    assert values.min() >= 0  # intensities of the fixed window, not -1 .. 1
    assert 1 < values.max() <= 900


def test_int16_files_hold_the_same_volumes(trained, capsys):
    folder, argv = trained
    draw(argv, capsys)
    exact = load(folder, 1).get_fdata()
    draw([*argv, "--config.sample.dtype=int16"], capsys)
    assert load(folder, 1).get_data_dtype() == np.int16
    np.testing.assert_allclose(load(folder, 1).get_fdata(), exact, atol=900 / 2**15)


def test_a_sample_is_a_function_of_seed_and_index(trained, capsys):
    folder, argv = trained
    draw([*argv, "--config.sample.count=8", "--config.sample.batch_size=8"], capsys)
    together = np.stack([load(folder, i).get_fdata() for i in range(8)]) / 900
    for size in (1, 3):
        for path in (folder / "run/samples").glob("sample_*"):
            path.unlink()  # or they would be kept: the batch size does not make other samples
        found = draw([*argv, "--config.sample.count=8", f"--config.sample.batch_size={size}"], capsys)
        assert found["drawn"] == 8
        np.testing.assert_allclose(np.stack([load(folder, i).get_fdata() for i in range(8)]) / 900, together, atol=1e-5)
    draw([*argv, "--config.sample.seed=1"], capsys)
    assert np.abs(load(folder, 0).get_fdata() / 900 - together[0]).max() > 1e-2


def test_interrupted_sampling_goes_on_and_other_samples_stay(trained, capsys):
    folder, argv = trained
    draw([*argv, "--config.sample.seed=5"], capsys)
    kept = snapshot(folder / "run/samples")
    (folder / "run/samples/sample_00001.nii.gz").unlink()
    found = draw([*argv, "--config.sample.seed=5"], capsys)
    assert found["drawn"] == 1
    again = snapshot(folder / "run/samples")
    assert {path: kept[path] for path in kept if "sample_0" in path and "00001" not in path}.items() <= again.items()
    np.testing.assert_array_equal(
        *(np.frombuffer(files[next(p for p in files if "montage" in p)], np.uint8) for files in (kept, again))
    )
    draw([*argv, "--config.sample.seed=6"], capsys)
    aside = sorted((folder / "run").glob("samples.*"))[-1]
    assert sorted(path.name for path in aside.iterdir()) == sorted(path.rsplit("/")[-1] for path in kept)


def test_the_montage_shows_real_volumes_where_they_are_at_hand(trained, capsys):
    folder, argv = trained

    def rows(argv):
        draw(argv, capsys)
        height = Image.open(folder / "run/samples/montage.png").size[1]
        return round(height / (128 + 4 + 18))

    without_root = [argument for argument in argv if "data.root" not in argument]
    assert rows([*argv, "--config.sample.seed=8"]) == 2
    assert rows([*without_root, "--config.sample.seed=9"]) == 2  # where the training data lay
    # Never of other data, though they be at hand.
    others = write_scans(folder / "others", count=7)
    assert rows([*without_root, "--config.sample.seed=12", f"--config.data.root={others}"]) == 1
    (folder / "scans").rename(folder / "elsewhere")
    assert rows([*without_root, "--config.sample.seed=10"]) == 1
    (folder / "elsewhere").rename(folder / "scans")


def said(argv, capsys):
    """What a sampling job finds, and its lines on stderr but for progress."""
    import launch

    assert launch.main(argv) == 0
    out, err = capsys.readouterr()
    return result(out), err.replace("\r", "\n").splitlines()


def test_data_that_are_not_the_run_s_are_told_in_one_line(trained, capsys):
    folder, argv = trained
    others = write_scans(folder / "still_others", count=7)
    elsewhere = [argument for argument in argv if "data.root" not in argument]
    _, lines = said([*elsewhere, f"--config.data.root={others}"], capsys)
    told = [line for line in lines if "no real volumes in the montage" in line]
    assert len(told) == 1 and "not the data of this run, data.fingerprint" in told[0]


def test_weights_trained_anew_to_the_same_step_draw_anew(trained, tmp_path, capsys):
    folder, _ = trained
    argv = command(folder / "scans", tmp_path, "--config.train.steps=2", "--config.optimizer.learning_rate=1e-2")
    assert launch(argv, capsys)[0] == 0
    assert draw([*argv, "--mode=sample"], capsys)["drawn"] == 2
    kept = snapshot(tmp_path / "run/samples")
    assert draw([*argv, "--mode=sample"], capsys)["drawn"] == 0
    shutil.rmtree(tmp_path / "run/checkpoints")
    argv[-1] = "--config.optimizer.learning_rate=5e-2"
    assert launch(argv, capsys)[0] == 0
    found = draw([*argv, "--mode=sample"], capsys)
    assert (found["step"], found["drawn"]) == (2, 2)
    aside = {path.replace("/samples/", "/samples.1/"): content for path, content in kept.items()}
    assert snapshot(tmp_path / "run/samples.1") == aside
    assert snapshot(tmp_path / "run/samples")[found["files"][0]] != kept[found["files"][0]]


def test_samples_of_weights_that_nobody_noted_are_moved_aside(trained, capsys):
    folder, argv = trained
    draw(argv, capsys)
    record = folder / "run/samples/settings.json"
    write_json(record, {key: value for key, value in read_json(record).items() if key != "weights"})
    assert draw(argv, capsys)["drawn"] == 2


def test_one_job_at_a_time_draws_into_a_folder(trained, capsys):
    folder, argv = trained
    draw(argv, capsys)
    before = snapshot(folder / "run")
    with sole_use(folder / "run", "samples"):
        [(status, out, err)] = ends([start_process([*argv, "--config.sample.seed=20"])])
    assert (status, out) == (2, "")
    assert f"{folder}/run/samples is in use by another job" in err.splitlines()[-1]
    assert snapshot(folder / "run") == before


def test_what_a_killed_job_left_half_written_is_removed(trained, capsys):
    folder, argv = trained
    draw(argv, capsys)
    samples = folder / "run/samples"
    for name in (f".unfinished-{os.getpid()}-sample_00001.nii.gz", ".montage.png.x1.png", ".settings.json.x1.json"):
        (samples / name).write_bytes(b"half")
    draw(argv, capsys)
    expected = ["montage.png", "sample_00000.nii.gz", "sample_00001.nii.gz", "settings.json"]
    assert sorted(path.name for path in samples.iterdir()) == expected


def test_a_damaged_sample_is_moved_aside_and_drawn_again(trained, capsys):
    folder, argv = trained
    path = folder / "run/samples/sample_00001.nii.gz"
    draw(argv, capsys)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    found, lines = said(argv, capsys)
    assert found["drawn"] == 1
    assert any(str(path) in line and "moved to sample_00001.nii.gz.1" in line for line in lines)
    assert path.with_name("sample_00001.nii.gz.1").stat().st_size == len(whole) // 2
    np.testing.assert_array_equal(nibabel.load(path).get_fdata().shape, (16, 16, 16))
    path.with_name("sample_00001.nii.gz.1").unlink()


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_model_that_draws_the_same_everywhere_is_told_and_no_error(dtype, trained, tmp_path, capsys):
    folder, _ = trained
    argv = command(folder / "scans", tmp_path, "--config.train.steps=1", "--config.optimizer.learning_rate=0.0")
    assert launch(argv, capsys)[0] == 0  # the network's last layer begins with zeros
    argv += ["--mode=sample", f"--config.sample.dtype={dtype}"]
    found, lines = said(argv, capsys)
    assert (found["drawn"], found["constant"], found["with_nan"]) == (2, 2, 0)
    told = [line for line in lines if "every voxel of" in line]
    assert len(told) == 1 and "the model has collapsed or is untrained" in told[0]
    assert "sample_00000 is 0.5 (1 more are constant)" in told[0]
    (tmp_path / "run/samples/sample_00001.nii.gz").unlink()
    (tmp_path / "run/samples/montage.png").unlink()
    found, lines = said(argv, capsys)
    assert (found["drawn"], found["constant"]) == (1, 2)
    assert Image.open(found["montage"]).size[1] > 200


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_a_model_that_draws_nan_is_told_and_no_error(dtype, trained, monkeypatch, capsys):
    folder, argv = trained
    restore = Checkpoints.restore_model

    def restore_broken(self, *arguments, **options):
        step, model = restore(self, *arguments, **options)
        return step, model | {"ema": jax.tree.map(lambda leaf: leaf * np.nan, model["ema"])}

    monkeypatch.setattr(Checkpoints, "restore_model", restore_broken)
    for drawn in (2, 0):
        found, lines = said([*argv, f"--config.sample.dtype={dtype}"], capsys)
        assert (found["drawn"], found["constant"], found["with_nan"]) == (drawn, 0, 2)
        told = [line for line in lines if "the model draws NaN" in line]
        assert len(told) == 1 and "in sample_00000 (1 more have some)" in told[0]
        assert np.isnan(load(folder, 1).get_fdata()).all()
        assert Image.open(found["montage"]).size[1] > 200


def test_sampling_imports_no_tensorflow(trained, monkeypatch, capsys):
    import sys

    _, argv = trained
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it raises
    draw([*argv, "--config.sample.seed=11"], capsys)


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("--config.sample.count=0", "sample.count is 0"),
        ("--config.sample.batch_size=-1", "sample.batch_size is -1"),
        ("--config.sample.dtype=int8", "sample.dtype is 'int8'"),
        ("--config.sample.checkpoint=first", "sample.checkpoint is 'first'"),
        ("--config.sample.sampler=magic", "sample.sampler is 'magic'"),
        ("--config.sample.steps=5000", "sample.steps is 5000"),
        ("--config.data.size=(32,32,32)", "data.size"),
        ("--config.sample.label=1", "sample.label is 1"),
        ("--config.sample.guidance=2.0", "sample.guidance is 2.0"),
    ],
)
def test_what_cannot_be_sampled_is_named(trained, argument, word, capsys):
    folder, argv = trained
    before = snapshot(folder / "run")
    status, out, lines = launch([*argv, argument], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert word in lines[0]
    assert snapshot(folder / "run") == before


START = ("--config.sample.sampler=ddim", "--config.sample.steps=10")


def start(*paths):
    return f"--config.sample.start={','.join(str(path) for path in paths)}"


def test_variations_of_a_scan(trained, capsys):
    folder, argv = trained
    argv = [*argv, "--config.sample.schedule=trained"]  # nearer to which a network of a few steps answers to the noise
    scan = folder / "scans/subject_1/t1.nii.gz"
    draw(argv, capsys)
    samples = snapshot(folder / "run/samples")
    weak = draw([*argv, *START, start(scan), "--config.sample.strength=0.1"], capsys)
    assert all("/run/variations/sample_0" in path for path in weak["files"])
    assert snapshot(folder / "run/samples") == samples
    strong_argv = [*argv, *START, start(scan), "--config.sample.strength=1.0"]
    little = [nibabel.load(path) for path in weak["files"]]
    draw(strong_argv, capsys)
    assert (folder / "run/variations.1/sample_00000.nii.gz").exists()
    much = [nibabel.load(path) for path in weak["files"]]  # of the same names

    def apart(volumes):
        return np.abs(volumes[0].get_fdata() - volumes[1].get_fdata()).mean()

    little = [nibabel.load(str(path).replace("variations", "variations.1")) for path in weak["files"]]
    assert 0 < apart(little) < apart(much)
    centres = [image.affine @ [*((np.array(image.shape) - 1) / 2), 1] for image in (little[0], nibabel.load(scan))]
    np.testing.assert_allclose(*centres, atol=1e-4)
    assert draw(strong_argv, capsys)["drawn"] == 0


def test_between_two_samples_of_ours(trained, capsys):
    _, argv = trained
    files = draw(argv, capsys)["files"]
    between = [*argv, *START, start(*files), "--config.sample.strength=0.1", "--config.sample.count=5"]
    found = draw(between, capsys)
    assert [path.rsplit("/", 2)[-2] for path in found["files"]] == ["interpolation"] * 5
    way = np.stack([nibabel.load(path).get_fdata() for path in found["files"]])
    steps = np.abs(np.diff(way, axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 0
    assert steps.max() < np.abs(way[-1] - way[0]).mean()
    assert draw(between, capsys)["drawn"] == 0
    # Another count is another way.
    assert draw([*between[:-1], "--config.sample.count=3"], capsys)["drawn"] == 3


def test_a_sample_of_another_window_is_no_start(trained, capsys):
    folder, argv = trained
    files = draw(argv, capsys)["files"]
    shutil.copytree(folder / "run/samples", folder / "foreign")
    record = folder / "foreign/settings.json"
    known = read_json(record)
    write_json(record, known | {"files": known["files"] | {"intensity_range": [0.0, 1.0]}})
    foreign = folder / "foreign" / files[0].rsplit("/")[-1]
    status, out, lines = launch([*argv, *START, start(foreign)], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert "is no sample of this model, intensity_range is [0.0, 1.0] there and [0.0, 900.0] here" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--config.sample.start=nowhere.nii.gz",), "nowhere.nii.gz"),
        (("--config.sample.start=a.nii,b.nii,c.nii",), "sample.start names 3 files"),
        (("--config.sample.start=a.nii,b.nii", "--config.sample.count=1"), "sample.count is 1"),
        (("--config.sample.strength=0.0",), "sample.strength is 0"),
    ],
)
def test_a_start_that_cannot_be_is_named(trained, arguments, word, capsys):
    _, argv = trained
    given = {argument.partition("=")[0] for argument in arguments}
    status, out, lines = launch([*(a for a in argv if a.partition("=")[0] not in given), *arguments], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert word in lines[0]
