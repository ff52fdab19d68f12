"""Two processes: who joins, what they agree on, what is whose, and what the loss of one means."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import pytest

from medjax.errors import UserError
from medjax.runtime import distributed
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import make_mesh
from small_runs import ROOT, ends, free_port
from wide_state import check, wide_shapes, wide_state

WORK = pathlib.Path(__file__).parent / "work_of_two.py"
ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}


def begin(job: str, processes, *more: str, devices: int = 2, **variables: str) -> list[subprocess.Popen]:
    """Starts these of the two processes, with so many virtual devices each."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
    port, environment = str(free_port()), os.environ | flags | {"PYTHONPATH": str(ROOT)} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return [subprocess.Popen([sys.executable, WORK, job, port, str(i), *more], **pipes) for i in processes]


def work_of_two(job: str, *more: str) -> list:
    """What each of the two found."""
    found = ends(begin(job, (0, 1), *more))
    assert [status for status, _, _ in found] == [0, 0], found
    return [json.loads(out.splitlines()[-1]) for _, out, _ in found]


def test_each_process_reads_its_own_rows_and_every_row_comes_out_once():
    first, second = work_of_two("rows")
    assert [own for own, _ in first] == [[0, 1], [0, 2], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert [own for own, _ in second] == [[2, 3], [1, 3], [2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    for (_, taken), (_, rest) in zip(first, second, strict=True):
        assert sorted(taken + rest) == [0, 1, 2, 3]
    assert first[0][1] == [0, 1] and first[1][1] == [0, 2]


def test_they_agree():
    first, second = work_of_two("decisions")
    assert first["answers"] == second["answers"] == [False, False, False, True, False]
    assert first["as_first"] == second["as_first"] == 5
    assert (first["together"], second["together"]) == ("0", "1")
    assert second["second_fails"] == "UserError: bad file"
    assert "process 0 stops because process 1 did" in first["second_fails"]
    assert first["first_fails"] == "UserError: bad folder"
    assert "process 1 stops because process 0 did" in second["first_fails"]
    assert first["same"] == second["same"] == "None"
    assert "process 1 has another configuration" in second["different"]
    assert "process 0 stops because process 1 did" in first["different"]


def test_a_checkpoint_of_any_mesh_and_process_count_comes_back_on_any_other(tmp_path):
    written = Checkpoints(tmp_path, 3)
    written.save(wide_state(1, make_mesh(ONE | {"data": 2, "fsdp": 4})), 0.7)
    written.close()
    assert work_of_two("checkpoints", str(tmp_path)) == [1, 1]
    for sizes in ({}, {"data": 8}, {"data": 2, "fsdp": 2, "depth": 2}):
        there = Checkpoints(tmp_path, 3)
        assert (there.latest_step, there.best_step) == (2, 2)
        check(there.restore(wide_shapes(), make_mesh(ONE | sizes)), step=2)


def test_where_one_is_killed_the_other_ends_in_one_line():
    (status, _, err), (killed, _, _) = ends(begin("killed", (0, 1), devices=1))
    assert killed == -signal.SIGKILL
    assert status == 2
    (line,) = [line for line in err.splitlines() if line.startswith("launch.py")]
    assert "process 0 lost another one" in line and "the last checkpoint is good" in line


def test_where_one_is_frozen_the_other_ends_by_its_missing_heartbeats():
    waiting, frozen = begin("frozen", (0, 1), MEDJAX_LOST_SECONDS="5")
    try:
        ((status, _, err),) = ends([waiting])
    finally:
        frozen.kill()
    assert status == -signal.SIGABRT  # JAX's own end
    assert "stopped sending heartbeats" in err


@pytest.mark.parametrize("process", [0, 1])
def test_where_the_others_never_come_it_ends_in_one_line(process):
    ((status, _, err),) = ends(begin("joined", (process,), MEDJAX_JOIN_SECONDS="2"))
    assert status == 2
    assert f"process {process} of 2 waited 2 s for the others at localhost:" in err.splitlines()[-1]


def test_flags_that_are_not_whole_or_cannot_be(monkeypatch):
    for arguments, words in (
        ((None, 2, 0), "--coordinator is missing"),
        (("localhost:1234", None, 0), "--num_processes is missing"),
        (("localhost:1234", 2, None), "--process_id is missing"),
        (("localhost", 2, 0), "--coordinator=localhost: give HOST:PORT"),
        (("localhost:70000", 2, 1), "--coordinator=localhost:70000: give HOST:PORT"),
        (("localhost:1234", 2, 2), "--process_id is 2 of --num_processes=2"),
    ):
        with pytest.raises(UserError, match=words):
            distributed.join(*arguments)
    monkeypatch.setenv("MEDJAX_JOIN_SECONDS", "soon")
    with pytest.raises(UserError, match="MEDJAX_JOIN_SECONDS is 'soon'"):
        distributed.join("localhost:1234", 2, 1)


def test_a_taken_port_is_named():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            UserError, match=f"--coordinator=localhost:{port}: no listening there .address already in use"
        ):
            distributed.join(f"localhost:{port}", 2, 0)


SLURM = {
    "SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # a batch script itself
        (SLURM, ("SLURM", 8, 5, 1, True)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ("SLURM", 1, 0, None, True)),  # a shell on a node
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, ("SLURM", 2, 5, None, True)),  # one task a node takes all its GPUs
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, ("SLURM", 8, 5, None, True)),  # --gpus-per-task=1
        (OPEN_MPI, ("Open MPI", 4, 3, 1, False)),
        (SLURM | OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:5"}, ("Open MPI", 4, 3, 1, True)),
    ],
)
def test_launchers(environment, expected):
    found = distributed.launcher(environment)
    assert found == (expected and distributed.Launcher(*expected))


def test_open_mpi_5_does_not_name_the_first_host(monkeypatch):
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="Open MPI started 4 processes but does not say where"):
        distributed.join(None, None, None)
