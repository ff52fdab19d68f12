"""Killed at any moment and started again, a run ends in the same bits as if it had never been killed."""

import json
import re
import signal
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from medjax.builders.assemble import tell_of_unused_labels
from medjax.errors import UserError
from medjax.jobs import train
from medjax.runtime.checkpoints import Checkpoints
from small_config import small_config
from small_runs import command, ends, launch, result, start, start_signalled, write_scans

STEPS = 40
CADENCE = (f"--config.train.steps={STEPS}", "--config.train.checkpoint_every=7", "--config.train.eval_every=14")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans"))


@pytest.fixture(scope="module")
def uninterrupted(scans, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    ((status, out, err),) = ends([start(command(scans, folder, *CADENCE))])
    assert status == 0, err
    return folder, result(out)


def arrays(workdir):
    """Every array of the last checkpoint, by item and path."""
    import orbax.checkpoint as ocp

    step = Checkpoints(workdir, 3).latest_step
    handler = ocp.StandardCheckpointer()
    items = {item: handler.restore(workdir / f"checkpoints/{step}/{item}") for item in ("model", "optimizer")}
    flat, _ = jax.tree_util.tree_flatten_with_path(items)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in flat}


def losses(workdir):
    """Rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "volumes_per_second"} for row in rows]


@pytest.mark.parametrize(("number", "row"), [(signal.SIGKILL, 19), (signal.SIGTERM, 25)])
def test_interrupted_anywhere_it_ends_in_the_same_bits(number, row, uninterrupted, scans, tmp_path):
    argv = command(scans, tmp_path, *CADENCE)
    ((status, out, err),) = ends([start_signalled(argv, number, "medjax.runtime.metrics_log:MetricsLog.write", row)])
    step = losses(tmp_path / "run")[row - 1]["step"]
    assert 14 < step < STEPS
    if number == signal.SIGTERM:
        assert status == 0, err
        stopped_at = result(out)["step"]
        assert step <= stopped_at < STEPS
        assert (tmp_path / f"run/checkpoints/{stopped_at}").is_dir()
    else:
        assert status == -signal.SIGKILL

    ((status, out, err),) = ends([start(argv)])
    assert status == 0, err
    again = result(out)
    assert 0 < again["resumed_from"] < STEPS
    if number == signal.SIGTERM:
        assert again["resumed_from"] == stopped_at

    folder, whole = uninterrupted
    assert (again["step"], again["loss"], again["val_loss"]) == (STEPS, whole["loss"], whole["val_loss"])
    expected, found = arrays(folder / "run"), arrays(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert any("opt_state" in name for name in found)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert losses(tmp_path / "run") == losses(folder / "run")


def test_what_a_run_leaves(uninterrupted):
    folder, whole = uninterrupted
    run = folder / "run"
    assert whole["resumed_from"] is None
    rows = losses(run)
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 14, 28, 40]
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert rows[-1]["val_loss"] < 0.9 * rows[0]["val_loss"]
    assert {"learning_rate", "grad_norm", "loss/LLL", "loss/quarter_1"} <= rows[1].keys()
    kept = {int(path.name) for path in (run / "checkpoints").iterdir()}
    assert {28, 35, 40} <= kept
    assert 0 not in kept
    assert list(run.glob("events.out.tfevents.*"))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(scans, tmp_path, capsys):
    good = command(scans, tmp_path, "--config.train.steps=4", "--config.train.checkpoint_every=2")
    assert launch(good, capsys)[0] == 0
    before = arrays(tmp_path / "run")
    bad = command(scans, tmp_path, "--config.train.steps=30", "--config.optimizer.learning_rate=1e30")
    status, out, lines = launch([*bad, "--config.optimizer.warmup_steps=0"], capsys)
    assert (status, out) == (2, "")
    assert re.search(r"(loss|grad_norm) is (nan|inf) at step \d+", lines[0])
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["2", "4"]
    after = arrays(tmp_path / "run")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_an_error_soon_after_a_save_waits_for_it_and_says_which_checkpoint_is_good(
    scans, tmp_path, capsys, monkeypatch
):
    def fails_at(step):
        def check_finite(pending):
            if pending[-1][0] >= step:
                raise UserError("stopped")
            return finite(pending)

        monkeypatch.setattr(train, "check_finite", check_finite)

    finite = train.check_finite
    argv = command(scans, tmp_path, "--config.train.steps=9", "--config.train.checkpoint_every=2")
    fails_at(1)
    assert launch(argv, capsys)[::2] == (2, ["launch.py: stopped; no checkpoint was finished"])
    fails_at(3)
    assert launch(argv, capsys)[::2] == (2, ["launch.py: stopped; the last good checkpoint is step 2"])
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["2"]
    monkeypatch.undo()
    status, out, _ = launch(argv, capsys)
    assert (status, result(out)["resumed_from"]) == (0, 2)
    assert [row["step"] for row in losses(tmp_path / "run") if "val_loss" in row] == [0, 9]  # step 0 once


def test_the_rate_of_the_first_update_is_not_zero_and_is_what_is_logged(uninterrupted):
    rates = [row["learning_rate"] for row in losses(uninterrupted[0] / "run") if "learning_rate" in row]
    np.testing.assert_allclose(rates[:3], np.arange(1, 4) / 10 * rates[-1], rtol=1e-5)  # warm-up of 10 steps


def test_eight_devices_train_what_one_trains(scans, tmp_path, capsys):
    found = {}
    for name, mesh in {
        "one": ("--config.mesh.data=1",),
        "many": ("--config.mesh.data=2", "--config.mesh.fsdp=4"),
    }.items():
        argv = command(scans, tmp_path, "--config.data.batch_size=8", "--config.train.steps=5", *mesh)
        status, _, lines = launch([*argv, f"--workdir={tmp_path}/{name}"], capsys)
        assert status == 0, lines
        found[name] = [row["loss"] for row in losses(tmp_path / name) if "loss" in row]
    np.testing.assert_allclose(found["many"], found["one"], rtol=1e-5)


def test_labels_that_a_model_does_not_learn_are_told_in_one_line(capsys):
    run = SimpleNamespace(
        config=small_config(**{"data.label_name": "lesion"}),
        task=SimpleNamespace(generates=True),
        dataset=SimpleNamespace(classes=2),
        spec={"image": None},
    )
    tell_of_unused_labels(run)
    told = capsys.readouterr().err.splitlines()
    assert told == ["data.label_name is lesion, but this model learns no labels: they are not used"]
    run.task.generates = False  # as of a VQ-GAN, whose records are those of the diffusion on its latents
    tell_of_unused_labels(run)
    assert capsys.readouterr().err == ""
