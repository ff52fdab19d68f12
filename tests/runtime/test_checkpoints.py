import shutil

import jax
import numpy as np
import optax
import pytest

from medjax.errors import UserError
from medjax.runtime.checkpoints import Checkpoints, digest, fingerprint, written_fingerprints
from medjax.runtime.mesh import make_mesh
from medjax.runtime.train_state import build_sharded, state_builder
from small_runs import ends
from small_task import Line
from two_processes import begin, work_of_two
from wide_state import check, wide_shapes, wide_state

BATCH = {"image": np.ones((8, 4), np.float32)}
BUILD = state_builder(Line(), optax.adam(1e-2))
ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}
SHAPES = jax.eval_shape(BUILD, jax.random.key(0), BATCH)


@pytest.fixture
def mesh():
    return make_mesh(ONE)


def state_at(step, mesh):
    state = build_sharded(BUILD, jax.random.key(step), BATCH, mesh)
    return state.replace(step=state.step + step)


def save_all(workdir, losses, mesh, keep=2):
    checkpoints = Checkpoints(workdir, keep)
    for step, loss in losses.items():
        checkpoints.save(state_at(step, mesh), loss)
    checkpoints.close()


def test_a_state_comes_back_bit_for_bit(tmp_path, mesh):
    save_all(tmp_path, {7: 0.5}, mesh)
    restored = Checkpoints(tmp_path, 2).restore(SHAPES, mesh)
    jax.tree.map(np.testing.assert_array_equal, restored, state_at(7, mesh))
    assert jax.tree.structure(restored) == jax.tree.structure(state_at(7, mesh))


def test_the_last_and_the_best_stay(tmp_path, mesh):
    save_all(tmp_path, {1: 0.5, 2: 0.1, 3: 0.4, 4: None, 5: 0.3}, mesh)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "4", "5"]
    checkpoints = Checkpoints(tmp_path, 2)
    assert (checkpoints.latest_step, checkpoints.best_step) == (5, 2)
    step, model = checkpoints.restore_model((SHAPES.params, SHAPES.variables), mesh, best=True)
    assert step == 2
    np.testing.assert_array_equal(model["ema"]["w"], state_at(2, mesh).ema["w"])


def test_what_is_not_asked_for_is_not_read(tmp_path, mesh):
    save_all(tmp_path, {3: None}, mesh)
    with Checkpoints(tmp_path, 2) as checkpoints:
        for weights in ("params", "ema"):
            _, model = checkpoints.restore_model((SHAPES.params, SHAPES.variables), mesh, weights=(weights,))
            assert model.keys() == {weights, "variables"}
            jax.tree.map(np.testing.assert_array_equal, model[weights], getattr(state_at(3, mesh), weights))


def test_best_without_any_validation_loss_is_the_last_and_says_so(tmp_path, mesh, capsys):
    save_all(tmp_path, {1: None, 2: float("nan")}, mesh)
    with Checkpoints(tmp_path, 2) as checkpoints:
        step, _ = checkpoints.restore_model((SHAPES.params, SHAPES.variables), mesh, best=True)
    assert step == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("sample.checkpoint=best: no checkpoint in ") and line.endswith("taking the last, step 2")


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt()])
def test_an_error_waits_for_what_is_being_written(error, tmp_path, mesh):
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.last_good == "no checkpoint was finished"
    with pytest.raises(type(error)), checkpoints:
        checkpoints.save(state_at(5, mesh), None)
        raise error
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["5"]
    assert checkpoints.last_good == "the last good checkpoint is step 5"


def test_a_failure_to_write_does_not_hide_the_error_on_its_way(tmp_path, mesh, monkeypatch):
    checkpoints = Checkpoints(tmp_path, 2)
    checkpoints.save(state_at(1, mesh), None)
    checkpoints.wait()
    with pytest.raises(ValueError, match="first"), checkpoints:
        checkpoints.save(state_at(2, mesh), None)
        checkpoints.wait()
        (tmp_path / "checkpoints/2/_CHECKPOINT_METADATA").unlink()  # as if it had not come to its end
        monkeypatch.setattr(checkpoints, "wait", lambda: 1 / 0)
        raise ValueError("first")
    assert checkpoints.last_good == "the last good checkpoint is step 1"


def test_the_written_fingerprints_are_those_of_the_arrays(tmp_path, mesh):
    save_all(tmp_path, {4: None}, mesh)
    prints = written_fingerprints(tmp_path, 4)
    assert digest(prints["params"]) == fingerprint(state_at(4, mesh).params)
    assert digest(prints["params"]) != fingerprint(state_at(3, mesh).params)
    assert written_fingerprints(tmp_path, 3) is None


def test_no_checkpoint_to_sample_from(tmp_path, mesh):
    with pytest.raises(UserError, match="no finished checkpoint"):
        Checkpoints(tmp_path, 2).restore_model((SHAPES.params, SHAPES.variables), mesh)


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["flip", "truncate", "remove"])
def test_a_damaged_checkpoint_is_refused(tmp_path, mesh, how):
    save_all(tmp_path, {1: None, 2: None}, mesh)
    data = [path for path in (tmp_path / "checkpoints/2/model").rglob("*") if path.is_file() and "/d/" in str(path)]
    for path in data:
        if how == "flip":
            damage(path)
        elif how == "truncate":
            path.write_bytes(path.read_bytes()[:20])
        else:
            path.unlink()
    with pytest.raises(UserError, match="checkpoints/2 .*damaged") as caught:
        Checkpoints(tmp_path, 2).restore(SHAPES, mesh)
    assert "\n" not in str(caught.value)


def test_arrays_that_can_be_read_but_were_not_written_there_are_refused(tmp_path, mesh):
    save_all(tmp_path, {1: None, 2: None}, mesh)
    shutil.rmtree(tmp_path / "checkpoints/2/model")
    shutil.copytree(tmp_path / "checkpoints/1/model", tmp_path / "checkpoints/2/model")
    with pytest.raises(UserError, match="checkpoints/2 is damaged .model is not what was written"):
        Checkpoints(tmp_path, 2).restore(SHAPES, mesh)


def test_an_unfinished_checkpoint_is_skipped(tmp_path, mesh, capsys):
    save_all(tmp_path, {1: None, 2: None}, mesh)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "2", folder / "3")
    (folder / "3/_CHECKPOINT_METADATA").unlink()
    shutil.copytree(folder / "2", folder / "4.orbax-checkpoint-tmp")
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.latest_step == 2
    assert [line.split(" was ")[0].rsplit("/")[-1] for line in capsys.readouterr().err.splitlines()] == [
        "3",
        "4.orbax-checkpoint-tmp",
    ]
    checkpoints.save(state_at(3, mesh), None)  # its name is free again
    checkpoints.close()
    assert Checkpoints(tmp_path, 2).latest_step == 3
    assert (folder / "3.unfinished.1").exists()


def test_whichever_file_of_the_newest_is_lost(tmp_path, mesh):
    """The checkpoint before it is taken, or one line names the folder; nothing else is ever restored."""
    save_all(tmp_path / "whole", {1: 0.5, 2: 0.25}, mesh)
    newest = tmp_path / "whole/checkpoints/2"
    outcomes = {}
    for number, file in enumerate(path.relative_to(newest) for path in sorted(newest.rglob("*")) if path.is_file()):
        workdir = tmp_path / str(number)
        shutil.copytree(tmp_path / "whole", workdir)
        (workdir / "checkpoints/2" / file).unlink()
        try:
            with Checkpoints(workdir, 2) as checkpoints:
                restored = checkpoints.restore(SHAPES, mesh)
        except UserError as error:
            assert "checkpoints/2" in str(error) and "\n" not in str(error)
            outcomes[str(file)] = "refused"
        else:
            outcomes[str(file)] = step = int(restored.step)
            jax.tree.map(np.testing.assert_array_equal, restored, state_at(step, mesh))
    assert outcomes["_CHECKPOINT_METADATA"] == 1
    assert outcomes["fingerprints/metadata"] == "refused"


def test_a_checkpoint_of_any_mesh_and_process_count_comes_back_on_any_other(tmp_path):
    written = Checkpoints(tmp_path, 3)
    written.save(wide_state(1, make_mesh(ONE | {"data": 2, "fsdp": 4})), 0.7)
    written.close()
    assert work_of_two("checkpoints", str(tmp_path)) == [1, 1]
    for sizes in ({}, {"data": 8}, {"data": 2, "fsdp": 2, "depth": 2}):
        there = Checkpoints(tmp_path, 3)
        assert (there.latest_step, there.best_step) == (2, 2)
        check(there.restore(wide_shapes(), make_mesh(ONE | sizes)), step=2)


@pytest.mark.parametrize("failing", [0, 1])
def test_where_one_of_two_fails_right_after_a_save_the_checkpoint_is_finished_and_both_end(failing, tmp_path):
    found = ends(begin("fails", (0, 1), str(tmp_path), str(failing), devices=1))
    assert [status for status, _, _ in found] == [2, 2], found
    assert found[failing][2].splitlines()[-1] == "launch.py: bad record"
    assert "lost another one" in found[1 - failing][2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics/metrics", b"\xff"),
        ("metrics/metrics", b"[" * 100_000),
        ("_CHECKPOINT_METADATA", b'{"commit_timestamp_nsecs": 1, "item_handlers": {}, "custom_metadata": "x"}'),
    ],
)
def test_damage_beside_the_arrays_is_named(tmp_path, mesh, file, content):
    save_all(tmp_path, {1: 0.5, 2: 0.25}, mesh)
    (tmp_path / "checkpoints/2" / file).write_bytes(content)
    with pytest.raises(UserError, match="checkpoints/2 is damaged .*move that folder away") as raised:
        Checkpoints(tmp_path, 2)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("step", "loss"), [(1, "0.125"), (2, "0.75"), (2, '"x"')])
def test_a_loss_that_is_not_what_was_written_is_damage(step, loss, tmp_path, mesh):
    """Else another checkpoint would be the best without a word."""
    save_all(tmp_path, {1: 0.5, 2: 0.25}, mesh)
    assert Checkpoints(tmp_path, 3).best_step == 2
    (tmp_path / f"checkpoints/{step}/metrics/metrics").write_text(f'{{"val_loss": {loss}}}')
    with pytest.raises(UserError, match=f"checkpoints/{step} is damaged .its validation loss"):
        Checkpoints(tmp_path, 3).restore_model((SHAPES.params, SHAPES.variables), mesh, best=True)


def test_fingerprints_that_are_none_are_damage(tmp_path, mesh):
    save_all(tmp_path, {1: 0.5}, mesh)
    (tmp_path / "checkpoints/1/fingerprints/metadata").write_text("null")
    with pytest.raises(UserError, match="checkpoints/1 is damaged"):
        Checkpoints(tmp_path, 2).restore(SHAPES, mesh)
