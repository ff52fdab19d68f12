import errno
import fcntl
import os
import subprocess
import sys
import warnings
from pathlib import Path

import filelock
import pytest

from configs import atlas
from medjax.errors import UserError
from medjax.runtime.workdir import (
    as_json,
    check_same_model,
    free_name,
    open_workdir,
    read_config,
    read_json,
    sole_use,
    write_json,
    written_aside,
)
from small_runs import ROOT

CONFIG = {
    "task": "t",
    "seed": 0,
    "model": {"width": 8, "levels": (1, 2)},
    "diffusion": {"steps": 10},
    "train": {"steps": 5},
}
DATA = {"identity": {"name": "atlas", "size": (32, 32, 32)}, "affine": [1.0]}


def test_the_same_model_may_go_on_with_other_settings(tmp_path):
    with sole_use(tmp_path / "run"):
        open_workdir(tmp_path / "run", CONFIG, DATA)
    open_workdir(tmp_path / "run", CONFIG | {"train": {"steps": 50}}, DATA)
    assert read_json(tmp_path / "run/config.json")["train"] == {"steps": 50}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed is 0 there and 1 here"),
        ({"model": {"width": 16, "levels": (1, 2)}}, "model.width is 8 there and 16 here"),
        ({"diffusion": {"steps": 10, "schedule": "cosine"}}, "diffusion.schedule is None there and cosine here"),
    ],
)
def test_another_model_is_refused_and_nothing_touched(tmp_path, change, message):
    (tmp_path / "run").mkdir()
    open_workdir(tmp_path / "run", CONFIG, DATA)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError, match=message):
        open_workdir(tmp_path / "run", CONFIG | change, DATA)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_other_data_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    open_workdir(tmp_path / "run", CONFIG, DATA)
    with pytest.raises(UserError, match=r"data.size is \[32, 32, 32\] there"):
        open_workdir(tmp_path / "run", CONFIG, DATA | {"identity": {"name": "atlas", "size": (64, 64, 64)}})


def test_a_scan_that_holds_something_else_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    identity = {"name": "folder", "rules": 2, "fingerprint": "x", "size": (32, 32, 32)}
    open_workdir(tmp_path / "run", CONFIG, {"identity": identity, "scans": {"a.nii": "1", "b.nii": "2"}})
    changed = {"identity": identity | {"fingerprint": "y"}, "scans": {"a.nii": "1", "b.nii": "3"}}
    with pytest.raises(UserError, match=r"belongs to a model of other data: b.nii holds something else; choose"):
        open_workdir(tmp_path / "run", CONFIG, changed)


def test_a_run_of_other_rules_is_refused_in_words(tmp_path):
    (tmp_path / "run").mkdir()
    open_workdir(tmp_path / "run", CONFIG, {"identity": {"name": "folder", "fingerprint": "x"}})
    with pytest.raises(UserError, match="its subjects were divided, and its scans known, by other rules than these"):
        open_workdir(tmp_path / "run", CONFIG, {"identity": {"name": "folder", "fingerprint": "y", "rules": 2}})


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(UserError, match="run cannot be made"), sole_use(tmp_path / "run"):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_one_run_at_a_time(tmp_path):
    second = sole_use(tmp_path / "run")
    with sole_use(tmp_path / "run"), pytest.raises(UserError, match="run is in use by another run"), second:
        pass
    with sole_use(tmp_path / "run"):
        pass


def test_each_part_is_held_for_itself(tmp_path):
    run, again = sole_use(tmp_path / "run"), sole_use(tmp_path / "run", "samples")
    refused = pytest.raises(UserError, match="run/samples is in use by another job")
    with run, sole_use(tmp_path / "run", "samples"), sole_use(tmp_path / "run", "variations"), refused, again:
        pass


HOLDING = """
import sys, time
from pathlib import Path
from medjax.runtime.workdir import sole_use
with sole_use(Path(sys.argv[1]), "samples"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_holds_nothing(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, str(tmp_path / "run")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout.readline() == "held\n"
            with pytest.raises(UserError, match="in use"), sole_use(tmp_path / "run", "samples"):
                pass
        finally:
            process.kill()
    with sole_use(tmp_path / "run", "samples"):
        pass


def test_a_file_system_without_locks_is_told_and_goes_on(tmp_path, monkeypatch, capsys):
    def no_locks(self, timeout):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    with sole_use(tmp_path / "run", "samples"):
        pass
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "cannot be locked (No locks available): let no other job write" in told[0]


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_whatever_a_file_system_says_that_has_no_locks(reason, tmp_path, monkeypatch, capsys):
    """Where the call itself is missing, filelock takes a file for a lock and says so."""

    def flock(descriptor, operation):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(fcntl, "flock", flock)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with sole_use(tmp_path / "run", "samples"):
            assert (tmp_path / "run/.lock-samples").exists()
    told = [*capsys.readouterr().err.splitlines(), *(str(warning.message) for warning in warned)]
    assert len(told) == 1 and ("cannot be locked" in told[0] or "falling back to SoftFileLock" in told[0])


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json cannot be read"):
        open_workdir(tmp_path, CONFIG, DATA)


def test_writing_aside_leaves_the_old_file_on_failure(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(RuntimeError), written_aside(tmp_path / "a.json") as aside:
        aside.write_text("half")
        raise RuntimeError
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_free_name(tmp_path):
    (tmp_path / "samples.1").mkdir()
    assert free_name(tmp_path / "samples") == tmp_path / "samples.2"


@pytest.mark.parametrize("content", [b"[]", b"7", b"null", b"{", b"\xff", b'{"a":' * 10**5])
def test_a_file_that_is_no_json_object_is_named(tmp_path, content):
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path} .*restore it") as raised:
        read_json(path)
    assert "\n" not in str(raised.value)


def test_what_a_file_holds_is_told_in_one_short_line(tmp_path):
    (tmp_path / "run").mkdir()
    write_json(tmp_path / "run/config.json", CONFIG | {"seed": "a\n\0" + "b" * 10**4})
    with pytest.raises(UserError, match="seed is a.?.?bbb") as raised:
        open_workdir(tmp_path / "run", CONFIG, DATA)
    assert len(str(raised.value)) < 600 and str(raised.value).isprintable()


def test_a_configuration_of_other_kinds_of_values_is_damaged(tmp_path):
    path = tmp_path / "config.json"
    for change, key in (
        ({"model": 7}, "model is 7"),
        ({"model": {"width": "x"}}, "model.width is x"),
        ({"model": {"levels": [1, {}]}}, "model.levels is {}"),
        ({"task": True}, "task is True"),
    ):
        write_json(path, CONFIG | change)
        with pytest.raises(UserError, match=f"^{path} is damaged .{key}, not as"):
            read_config(path, CONFIG)


def test_an_older_configuration_is_completed(tmp_path):
    path = tmp_path / "config.json"
    write_json(path, {"task": "t", "model": {"width": 4.5, "old": 1}, "train": None})
    known = read_config(path, CONFIG)
    assert known["model"] == {"width": 4.5, "levels": [1, 2], "old": 1}
    assert known["seed"] == 0 and known["train"] is None


def test_a_run_from_before_diffusion_on_subbands_knew_labels_is_one_without():
    config = atlas.get_config("tiny").to_dict()
    older = config | {"model": {key: value for key, value in config["model"].items() if "label" not in key}}
    del older["model"]["classes"]
    check_same_model(Path("run"), as_json(older), config)
    with pytest.raises(UserError, match="model.classes is 0 there and 2 here"):
        check_same_model(Path("run"), as_json(older), config | {"model": config["model"] | {"classes": 2}})


def test_an_older_autoencoder_is_one_with_a_codebook(tmp_path):
    old = as_json(CONFIG | {"task": "vqgan"})
    new = {name: old | {"model": old["model"] | {"bottleneck": name, "kl_weight": 1e-6}} for name in ("codebook", "kl")}
    check_same_model(tmp_path, old, new["codebook"])
    with pytest.raises(UserError, match="model.bottleneck is codebook there and kl here"):
        check_same_model(tmp_path, old, new["kl"])
    write_json(tmp_path / "config.json", old)
    assert read_config(tmp_path / "config.json", new["kl"])["model"]["bottleneck"] == "codebook"
