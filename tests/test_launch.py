"""What cannot work ends in one line that names the file or the key, status 2, and nothing touched."""

import gzip
import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

from small_runs import ROOT, command, ends, launch, result, snapshot, start, start_signalled, write_scan, write_scans


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory):
    """A run of three steps, in a folder whose "run" is the workdir."""
    import launch

    folder = tmp_path_factory.mktemp("trained")
    steps = ("--config.train.steps=3", "--config.train.checkpoint_every=2", "--config.train.eval_every=3")
    assert launch.main(command(scans, folder, *steps)) == 0
    return folder


def refused(argv, capsys, *words):
    status, out, lines = launch(argv, capsys)
    assert (status, out) == (2, ""), lines
    assert len(lines) == 1
    for word in words:
        assert word in lines[0]
    assert "Traceback" not in lines[0]


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def truncated(path):
    write_scan(path)
    path.write_bytes(path.read_bytes()[:3000])


def with_nan(path):
    array = random(20, 18, 16)
    array[3, 4, 5] = np.nan
    save(path, array)


def without_spacing(path):
    save(path, random(20, 18, 16))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:92] = bytes(12)  # pixdim[1:4]; nibabel would put it right on saving
    content[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(gzip.compress(content))


BAD_SCANS = {
    "truncated": truncated,
    "not_nifti": lambda path: path.parent.mkdir(parents=True) or path.write_text("hello"),
    "flat": lambda path: save(path, random(20, 18)),
    "series": lambda path: save(path, random(20, 18, 16, 4)),
    "nan": with_nan,
    "constant": lambda path: save(path, np.ones((20, 18, 16), np.float32)),
    "no_spacing": without_spacing,
}


@pytest.mark.parametrize("kind", BAD_SCANS)
def test_an_unusable_scan_is_named(kind, tmp_path, capsys):
    bad = tmp_path / f"scans/{kind}.nii.gz"
    BAD_SCANS[kind](bad)
    before = snapshot(tmp_path / "scans")
    everyone_learned_from = "--config.data.split=(1.0,0.0,0.0)"  # else chance may keep the only subject for the test
    refused(command(tmp_path / "scans", tmp_path, everyone_learned_from), capsys, f"{kind}.nii.gz")
    assert snapshot(tmp_path / "scans") == before
    assert {path.name for path in (tmp_path / "run").glob("*")} <= {"cases.csv"}


def test_a_series_of_one_volume_is_a_volume(scans, tmp_path, capsys):
    for n in range(3):
        save(tmp_path / f"scans/{n}.nii.gz", random(20, 18, 16, 1) + n)
    status, out, lines = launch(command(tmp_path / "scans", tmp_path, "--config.train.steps=1"), capsys)
    assert status == 0, lines
    assert result(out)["volumes"] == 3


def test_one_bad_scan_among_good_ones(tmp_path, capsys):
    write_scans(tmp_path / "scans", 4)
    truncated(tmp_path / "scans/subject_9/t1.nii.gz")
    refused(command(tmp_path / "scans", tmp_path), capsys, "subject_9/t1.nii.gz", "data.skip_bad_files")
    skipping = command(tmp_path / "scans", tmp_path, "--config.data.skip_bad_files=True", "--config.train.steps=1")
    status, out, _ = launch(skipping, capsys)
    assert status == 0
    assert (result(out)["skipped_files"], result(out)["volumes"]) == (1, 2)


def test_folders_without_scans(tmp_path, capsys):
    refused(command(tmp_path / "none", tmp_path), capsys, str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    refused(command(tmp_path / "empty", tmp_path), capsys, str(tmp_path / "empty"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text/readme.txt").write_text("no scans here")
    refused(command(tmp_path / "text", tmp_path), capsys, str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.data.size=(16,18,16)", ["data.size", "H = 18", "multiple of 4"]),
        ("--config.data.size=(16,16)", ["data.size", "three"]),
        ("--config.data.batch_size=3", ["data.batch_size is 3", "mesh.data"]),
        ("--config.train.stepz=3", ["stepz", "steps"]),
        ("--config.trian.steps=3", ["trian", "train"]),
        ("--config.train.steps=many", ["config.train.steps", "many"]),
        ("--config.train.steps=0", ["train.steps is 0"]),
        ("--config.train.keep=-1", ["train.keep is -1"]),
        ("--config.train.ema_decay=1.5", ["train.ema_decay is 1.5"]),
        ("--config.optimizer.learning_rate=nan", ["optimizer.learning_rate is nan"]),
        ("--config.optimizer.learning_rate=inf", ["optimizer.learning_rate is inf"]),
        ("--config.optimizer.learning_rate=fast", ["optimizer.learning_rate", "fast"]),
        ("--config.optimizer.warmup_steps=-3", ["optimizer.warmup_steps is -3"]),
        ("--config.data.batch_size=-2", ["data.batch_size is -2"]),
        ("--config.data.size=(0,16,16)", ["data.size is (0, 16, 16)"]),
        ("--config.data.size=('a',16,16)", ["data.size is ('a', 16, 16)"]),
        ("--config.model.groups=0", ["model.groups is 0"]),
        ("--config.model.dropout=1.0", ["model.dropout is 1.0"]),
        ("--config.mesh.depth=0", ["mesh.depth is 0"]),
        ("--config.data.window=wide", ["data.window", "wide"]),
        ("--config.mesh.depth=99", ["mesh.data=2", "mesh.depth=99", "198 devices"]),
        ("--config=configs/none.py", ["configs/none.py", "no such file"]),
        (f"--config={ROOT}/configs/folder.py:huge", ["'huge'", "tiny"]),
        ("--mode=paint", ["--mode=paint", "train"]),
        ("--speed=11", ["speed"]),
        ("train", ["train is not a flag"]),
    ],
)
def test_a_setting_that_cannot_work_is_named(argument, words, scans, tmp_path, capsys):
    # data=2, so that an odd batch cannot be divided.
    refused(command(scans, tmp_path, "--config.mesh.data=2", argument), capsys, *words)
    assert not (tmp_path / "run").exists()


FILES = {
    "an attribute that is not there": ("import math\nmath.nothing\n", ["AttributeError", "nothing"]),
    "a key that is not there": ("{}['lost']\n", ["KeyError", "lost"]),
    "no Python": ("def get_config(:\n", ["SyntaxError"]),
    "no get_config": ("x = 1\n", ["get_config"]),
    "a module that is not there": ("import not_a_module\n", ["not_a_module"]),
    "an error of several lines": ("raise ValueError('it is\\nso')\n", ["ValueError: it is so"]),
    "an exit": ("raise SystemExit(3)\n", ["SystemExit"]),
    "a file that is not there": ("open('/not/there')\n", ["/not/there"]),
    "no configuration": ("def get_config():\n    return {'task': 'vqgan'}\n", ["ConfigDict"]),
    "half a configuration": (
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'data': {}})\n",
        ["has no part 'model'", "common.py"],
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_config_file_that_cannot_be_used_is_named(kind, tmp_path, monkeypatch, capsys):
    content, words = FILES[kind]
    monkeypatch.delitem(
        sys.modules, "config_config", raising=False
    )  # where ml_collections left the last file's functions
    path = tmp_path / "own.py"
    path.write_text(content)
    refused(["launch.py", f"--config={path}", f"--workdir={tmp_path}/run"], capsys, "own.py", *words)


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate", "benchmark", "plan", "prepare"])
@pytest.mark.parametrize("seed", [-1, 2**32])
@pytest.mark.parametrize("key", ["seed", "sample.seed", "evaluate.seed", "data.atlas_seed"])
def test_a_seed_that_is_another_one_to_jax_is_refused_by_every_job(key, seed, mode, tmp_path, capsys):
    argv = ["launch.py", f"--workdir={tmp_path}/run", f"--mode={mode}", f"--config.{key}={seed}"]
    refused(argv, capsys, f"{key} is {seed}: use a whole number from 0 to 2^32 - 1")


@pytest.mark.parametrize("mode", ["train", "sample", "prepare"])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (lambda: jnp.zeros(2**50, jnp.uint8).block_until_ready(), ["a device's memory"]),
        (lambda: np.zeros(2**60, np.uint8), ["this computer's memory", "Unable to allocate"]),
        (lambda: jax.jit(lambda: jnp.ones(2**50, jnp.uint8))(), ["a device's memory"]),
    ],
)
def test_where_memory_runs_out_one_line_says_what_to_change(error, words, mode, tmp_path, capsys, monkeypatch):
    job = importlib.import_module(f"medjax.jobs.{mode}")
    monkeypatch.setattr(job, "run", lambda config, workdir: error())
    advice = {
        "train": ["data.batch_size", "train.remat=auto", "mesh.depth"],
        "sample": ["sample.batch_size", "mesh.depth"],
        "prepare": ["data.batch_size"],
    }
    refused(["launch.py", f"--mode={mode}", f"--workdir={tmp_path}/run"], capsys, *words, *advice[mode])


def test_a_step_that_does_not_fit_names_what_to_change(scans, tmp_path, capsys):
    huge = (
        "--config.data.name=synthetic",
        "--config.data.root=",
        "--config.data.size=(65536,65536,65536)",
        "--config.train.steps=1",
    )
    refused(command(scans, tmp_path, *huge), capsys, "memory", "data.batch_size", "train.remat=auto", "mesh.depth")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.seed=1", ["another model", "seed is 0 there and 1 here"]),
        ("--config.model.base_channels=8", ["another model", "model.base_channels"]),
        ("--config.diffusion.schedule=cosine", ["another model", "diffusion.schedule"]),
        ("--config.data.window_range=(0.1,0.9)", ["other data", "window_range"]),
    ],
)
def test_a_workdir_of_another_model_is_refused(argument, words, trained, scans, capsys):
    argv = command(scans, trained, argument)
    before = snapshot(trained / "run")
    refused(argv, capsys, *words)
    if "data" not in argument:
        refused([*argv, "--mode=sample"], capsys, *words)
    assert snapshot(trained / "run") == before


def test_scans_that_changed_under_a_run_are_noticed(tmp_path, capsys):
    scans = write_scans(tmp_path / "scans", 4)
    assert launch(command(scans, tmp_path, "--config.train.steps=1"), capsys)[0] == 0
    write_scan(scans / "subject_7/t1.nii.gz", seed=7)
    refused(command(scans, tmp_path, "--config.train.steps=2"), capsys, "other data")


def test_a_workdir_without_its_record_is_not_guessed_at(trained, scans, tmp_path, capsys):
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run/config.json").unlink()
    refused(command(scans, tmp_path), capsys, "checkpoints but no config.json")
    (tmp_path / "run/data.json").write_text("{}")
    shutil.copy(trained / "run/config.json", tmp_path / "run/config.json")
    refused([*command(scans, tmp_path), "--mode=sample"], capsys, "data.json is not whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_before_the_first_step_it_leaves_cleanly(number, scans, tmp_path):
    begun = "medjax.runtime.metrics_log:MetricsLog.__init__"  # just before it compiles
    ((status, out, err),) = ends([start_signalled(command(scans, tmp_path), number, begun, 1)])
    assert status == 0, err
    assert result(out)["step"] is None
    assert "nothing to save" in err
    assert "Traceback" not in err


def test_sampling_before_training(scans, tmp_path, capsys):
    refused(command(scans, tmp_path, "--mode=sample"), capsys, "run/config.json is missing", "train first")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_ends_in_one_line(trained, scans, tmp_path):
    subprocess.run(["cp", "-r", trained / "run", tmp_path / "run"], check=True)
    for path in (tmp_path / "run/checkpoints/3").rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(path.read_bytes()[:10])
    # In a process of its own: libraries must not print tracebacks at exit either.
    ((status, out, err),) = ends([start(command(scans, tmp_path, "--config.train.steps=4"))])
    assert status == 2
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("launch.py: checkpoint")
    assert "checkpoints/3" in last


def test_a_full_disk_is_named_and_leaves_what_was_there(trained, scans, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs the rights of root")
    try:
        wide = (
            "--config.model.base_channels=32",
            "--config.model.channel_multipliers=(1,)",
            "--config.train.steps=3",
            f"--workdir={disk}/run",
        )
        ((status, out, err),) = ends([start(command(scans, tmp_path, *wide))])
        assert (status, out) == (2, "")
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("launch.py: no space left on the disk of")
        assert not [path for path in (disk / "run/checkpoints").glob("*") if path.name.isdigit()]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_help_is_short_and_shows_the_commands(capsys):
    import launch

    assert launch.main(["launch.py", "--help"]) == 0
    text = capsys.readouterr().out
    assert sum(line.startswith("  python launch.py") for line in text.splitlines()) == 10
    assert len(text.splitlines()) < 20


def test_a_result_is_one_json_line_with_the_promised_keys(trained, scans, capsys):
    status, out, _ = launch(command(scans, trained, "--config.train.steps=3"), capsys)
    assert status == 0
    assert len(out.splitlines()) == 1
    found = result(out)
    assert {"step", "loss", "val_loss", "parameters", "steps_per_second", "resumed_from"} <= found.keys()
    assert (found["step"], found["resumed_from"], found["steps_per_second"]) == (3, 3, None)
    assert found["val_loss"] > 0
    config = json.loads(pathlib.Path(found["workdir"], "config.json").read_text())
    assert config["data"]["name"] == "folder"


def test_what_trained_with_automatic_recomputation_also_samples(trained, scans, capsys):
    more = ("--mode=sample", "--config.train.remat=auto", "--config.sample.count=1")
    assert launch(command(scans, trained, *more), capsys)[0] == 0


def test_deterministic_operations_are_asked_of_xla(scans, tmp_path, monkeypatch, capsys):
    before = os.environ["XLA_FLAGS"]
    monkeypatch.setenv("XLA_FLAGS", before)
    wrong = ("--config.mesh.depth=99",)  # ends before anything is compiled
    assert launch(command(scans, tmp_path, *wrong), capsys)[0] == 2
    assert os.environ["XLA_FLAGS"] == before
    assert launch(command(scans, tmp_path, *wrong, "--config.train.deterministic=True"), capsys)[0] == 2
    assert os.environ["XLA_FLAGS"] == before + " --xla_gpu_deterministic_ops=true"


def test_the_precision_of_products_holds_for_the_whole_job(monkeypatch, tmp_path, capsys):
    import jax

    from medjax.jobs import subbands

    found = []
    monkeypatch.setattr(subbands, "run", lambda *_: found.append(jax.config.jax_default_matmul_precision) or {})
    common = ["launch.py", "--mode=subbands", f"--workdir={tmp_path}"]
    assert launch([*common, "--config.train.precision=highest"], capsys)[0] == 0
    assert launch(common, capsys)[0] == 0
    assert found == ["highest", None]
    refused([*common, "--config.train.precision=exact"], capsys, "train.precision is 'exact'", "highest")
    assert len(found) == 2
