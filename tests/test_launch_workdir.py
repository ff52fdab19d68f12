"""A workdir knows its configuration: commands without --config take it from there."""

import json
import shutil

import pytest

from configs import atlas, brats, folder, medical_diffusion
from medjax.runtime.workdir import write_json
from small_runs import launch

CONFIGS = {
    "atlas": atlas.get_config("tiny"),
    "published": brats.get_config("256,wavunet,published"),
    "folder": folder.get_config("tiny,flow"),
    "voxels": brats.get_config("tiny,voxels"),
    "vqgan": medical_diffusion.get_config("adni,vqgan"),
    "ddpm": medical_diffusion.get_config("mrnet,ddpm,tiny"),
    "ddpm, unet": medical_diffusion.get_config("ddpm,unet,tiny"),
    "ddpm, haar": medical_diffusion.get_config("ddpm,haar,tiny"),
}


def parsed(*arguments):
    import launch as launcher

    _, config, workdir, _ = launcher.parse(["launch.py", *map(str, arguments)])
    return config, workdir


def record(workdir, config):
    workdir.mkdir(exist_ok=True)
    write_json(workdir / "config.json", config.to_dict())
    return workdir


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_the_one_that_was_given_types_and_all(name, tmp_path):
    expected = CONFIGS[name]
    found, workdir = parsed(f"--workdir={record(tmp_path / 'run', expected)}", "--mode=sample")
    assert workdir == tmp_path / "run"
    assert found.to_dict() == expected.to_dict()  # a tuple is no list here
    types = {key: type(value) for key, value in found.data.items()}
    assert types == {key: type(value) for key, value in expected.data.items()}


def test_single_lines_are_changed_on_top_of_it(tmp_path):
    run = record(tmp_path / "run", CONFIGS["atlas"])
    on_top = (
        "--config.sample.count=3",
        "--config.sample.label=1",
        "--config.data.root=there",
        "--config.sample.steps=None",
    )
    found, _ = parsed(f"--workdir={run}", *on_top, "--config.data.spacing=(1,1,1)")
    assert (found.sample.count, found.sample.label, found.data.root, found.sample.steps) == (3, 1, "there", None)
    assert found.data.spacing == (1, 1, 1)
    assert found.train.steps == CONFIGS["atlas"].train.steps
    assert json.loads((run / "config.json").read_text())["sample"]["count"] == CONFIGS["atlas"].sample.count


def test_a_config_that_is_named_counts_alone(tmp_path):
    run = record(tmp_path / "run", CONFIGS["vqgan"])
    found, _ = parsed("--config=configs/folder.py:tiny", f"--workdir={run}")
    assert found.to_dict() == folder.get_config("tiny").to_dict()
    found, workdir = parsed("--config", "configs/folder.py", "--config.train.steps", "3")
    assert (found.train.steps, str(workdir)) == (3, "runs/folder")


def test_a_new_workdir_begins_with_the_default(tmp_path):
    found, _ = parsed(f"--workdir={tmp_path}/run")
    assert found.to_dict() == atlas.get_config().to_dict()


def test_what_an_older_run_did_not_record_is_the_default(tmp_path):
    config = CONFIGS["atlas"].to_dict()
    del config["benchmark"], config["train"]["precision"], config["model"]["classes"]
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/config.json", config)
    assert parsed(f"--workdir={tmp_path}/run")[0].to_dict() == CONFIGS["atlas"].to_dict()


def broken(text):
    return lambda path: path.write_text(text)


def changed(**changes):
    return lambda path: write_json(path, json.loads(path.read_text()) | changes)


DAMAGE = {
    "cut short": broken('{"task": "vq'),
    "no object": broken("[]"),
    "empty": broken("{}"),
    "another task": changed(task="painting"),
    "a task that is a list": changed(task=[1]),
    "a part that is a number": changed(data=3),
    "a model that is a number": changed(model=3),
    "a number that is a text": changed(train={"steps": "many"}),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("mode", ["train", "sample", "evaluate"])
def test_a_damaged_one_is_named_in_one_line(kind, mode, tmp_path, capsys):
    run = record(tmp_path / "run", CONFIGS["atlas"])
    DAMAGE[kind](run / "config.json")
    before = (run / "config.json").read_bytes()
    status, out, lines = launch(["launch.py", f"--workdir={run}", f"--mode={mode}"], capsys)
    assert (status, out, len(lines)) == (2, "", 1), lines
    assert str(run / "config.json") in lines[0]
    assert (run / "config.json").read_bytes() == before and len(list(run.iterdir())) == 1


@pytest.mark.parametrize("mode", ["sample", "evaluate", "export_weights"])
def test_without_either_one_line_says_so(mode, tmp_path, capsys):
    more = (f"--output={tmp_path}/x.pt",) if mode == "export_weights" else ()
    status, out, lines = launch(["launch.py", f"--workdir={tmp_path}/run", f"--mode={mode}", *more], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert f"{tmp_path}/run/config.json is missing" in lines[0]
    shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_a_value_of_another_kind_is_one_line(tmp_path, capsys):
    run = record(tmp_path / "run", CONFIGS["atlas"])
    for argument, said in (("trian.steps=3", "did you mean train.steps?"), ("train.steps=1.5", "a whole number")):
        status, out, lines = launch(["launch.py", f"--workdir={run}", f"--config.{argument}"], capsys)
        assert (status, out, len(lines)) == (2, "", 1) and said in lines[0]
