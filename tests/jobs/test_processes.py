"""Two and four processes train and sample what one does, stop together, and go on from where they or others stopped."""

import json
import signal

import numpy as np
import pytest

from data_pipelines.formats import nifti
from small_runs import FOLDER, SMALL, ends, free_port, result, start, start_all, wait_until

pytestmark = pytest.mark.slow

SMALLEST = (*(a for a in SMALL if "channel_multipliers" not in a), "--config.model.channel_multipliers=(1,)")
ARGV = ("launch.py", FOLDER, "--config.data.name=synthetic", *SMALLEST)


def rows(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir, name: str = "loss") -> dict[int, float]:
    """By step; each may be there once only."""
    found = [(row["step"], row[name]) for row in rows(workdir) if name in row]
    assert len(found) == len(dict(found))
    return dict(found)


def run_all(argv, count: int) -> list[dict]:
    """The results of a run of so many processes."""
    found = ends(start_all(argv, count) if count > 1 else [start(argv)])
    assert [status for status, _, _ in found] == [0] * count, found
    for _, _, err in found[1:]:
        assert err == ""  # process 0 speaks for all
    return [result(out) for _, out, _ in found]


def test_two_and_four_processes_do_what_one_does(tmp_path):
    cadence = ("--config.train.eval_every=4", "--config.train.checkpoint_every=2")
    common = [*ARGV, *cadence, "--config.data.batch_size=4", "--config.mesh.data=-1", "--config.sample.count=3"]

    def train(name: str, count: int, steps: int, *more: str) -> dict:
        argv = [*common, f"--workdir={tmp_path / name}", f"--config.train.steps={steps}", *more]
        first, *others = run_all(argv, count)
        assert all(other["loss"] == first["loss"] and other["step"] == steps for other in others)
        return first

    train("one", 1, 6)
    train("two", 2, 6, "--config.mesh.fsdp=2")
    train("four", 4, 4, "--config.mesh.depth=2")
    assert train("four", 1, 6)["resumed_from"] == 4  # what four processes left, one goes on with
    for name in ("two", "four"):
        for loss in ("loss", "val_loss"):
            expected, found = losses(tmp_path / "one", loss), losses(tmp_path / name, loss)
            assert {step: pytest.approx(value, rel=1e-5) for step, value in expected.items()} == found
        assert len(list((tmp_path / name).glob("events.out.tfevents.*"))) == (1 if name == "two" else 2)

    drawn = {}
    for count, more in ((1, ()), (2, ("--config.mesh.data=1", "--config.mesh.depth=2"))):
        argv = [*common, f"--workdir={tmp_path}/one", "--mode=sample", *more]
        results = run_all(argv, count)
        assert all((found["count"], found["drawn"]) == (3, 3) for found in results)
        folder = (tmp_path / "one/samples").rename(tmp_path / f"samples_of_{count}")
        drawn[count] = np.stack([nifti.read(folder / f"sample_{i:05d}.nii.gz").array for i in range(3)])
        assert (folder / "montage.png").exists()
    np.testing.assert_allclose(drawn[2], drawn[1], atol=1e-4)


def wait_for_step(processes, workdir, step: int) -> None:
    path = workdir / "metrics.jsonl"
    wait_until(lambda: path.exists() and f'"step": {step},' in path.read_text(), processes)


def test_stopped_killed_and_started_again(tmp_path):
    def argv(name: str, *more: str) -> list[str]:
        return [
            *ARGV,
            "--config.mesh.data=-1",
            "--config.train.eval_volumes=0",
            f"--workdir={tmp_path / name}",
            *more,
        ]

    # SIGTERM to the second: both save the same step and leave well.
    endless = argv("run", "--config.train.steps=100000", "--config.train.checkpoint_every=3")
    processes = start_all(endless, 2)
    wait_for_step(processes, tmp_path / "run", 2)
    processes[1].send_signal(signal.SIGTERM)
    found = ends(processes)
    assert [status for status, _, _ in found] == [0, 0], found
    stopped_at = result(found[0][1])["step"]
    assert stopped_at == result(found[1][1])["step"] >= 2
    assert (tmp_path / f"run/checkpoints/{stopped_at}").is_dir()

    # SIGKILL of the second: the first says so and ends.
    processes = start_all(endless, 2)
    # By then two checkpoints are due, and the second waits until the first is whole.
    wait_for_step(processes, tmp_path / "run", stopped_at + 7)
    processes[1].kill()
    (status, out, err), _ = ends(processes)
    assert (status, out.splitlines()[1:]) == (2, []), err  # but for gloo's own greeting
    assert "process 0 lost another one" in err.splitlines()[-1]

    # One process goes on, and the numbers are those of a run that nobody disturbed.
    steps = max(losses(tmp_path / "run")) + 2
    (last,) = run_all(argv("run", f"--config.train.steps={steps}"), 1)
    assert last["resumed_from"] >= stopped_at + 1
    run_all(argv("undisturbed", f"--config.train.steps={steps}"), 1)
    found, expected = losses(tmp_path / "run"), losses(tmp_path / "undisturbed")
    assert list(found) == list(range(1, steps + 1))
    assert {step: pytest.approx(value, rel=1e-5) for step, value in expected.items()} == found


def test_what_one_cannot_do_ends_all(tmp_path):
    """Another configuration would have them wait for each other for ever."""
    where = (f"--coordinator=localhost:{free_port()}", "--num_processes=2", f"--workdir={tmp_path}/run")
    argv = [*ARGV, *where, "--config.mesh.data=-1"]
    found = ends([start([*argv, "--process_id=0"]), start([*argv, "--process_id=1", "--config.train.log_every=7"])])
    assert [status for status, _, _ in found] == [2, 2], found
    assert "process 1 has another configuration" in found[1][2].splitlines()[-1]
    assert "process 0 stops because process 1 did" in found[0][2].splitlines()[-1]
    assert not (tmp_path / "run").exists()
