"""Who joins, and what the loss of a process means to the other one."""

import os
import signal
import socket
import types

import jax
import pytest

from medjax.errors import UserError
from medjax.runtime import distributed
from small_runs import ends, free_port
from two_processes import begin


def test_where_one_is_killed_the_other_ends_in_one_line():
    (status, _, err), (killed, _, _) = ends(begin("killed", (0, 1), devices=1))
    assert killed == -signal.SIGKILL
    assert status == 2
    (line,) = [line for line in err.splitlines() if line.startswith("launch.py")]
    assert "process 0 lost another one" in line


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
    assert ", which every host takes for itself: start all of them" in err.splitlines()[-1]


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_a_proxy_for_the_internet_is_not_asked_for_the_others(variable):
    """Nothing listens at port 9, so who asks there never joins."""
    found = ends(begin("joined", (0, 1), devices=1, **{variable: "http://127.0.0.1:9"}, MEDJAX_JOIN_SECONDS="60"))
    assert [(status, out.splitlines()[-1:]) for status, out, _ in found] == [(0, ["2"])] * 2, found


def test_the_proxy_is_as_it_was_afterwards(monkeypatch):
    for before in ("http://proxy:3128", None):
        monkeypatch.delenv("grpc_proxy", raising=False)
        if before:
            monkeypatch.setenv("grpc_proxy", before)
        with pytest.raises(KeyError), distributed._without_proxy():
            assert os.environ[distributed.PROXY] == ""
            raise KeyError
        assert os.environ.get(distributed.PROXY) == before


NAMES = {
    "node3": ["127.0.1.1"],
    "node4": ["10.0.0.4", "127.0.1.1"],
    "node5": ["::1", "127.0.0.1"],
    "node6": ["fe80::1%eth0"],
}


def resolved(host, port):
    if host in NAMES:
        return [(None, None, 0, "", (address, 0)) for address in NAMES[host]]
    if host == "nowhere":
        raise socket.gaierror
    return [(None, None, 0, "", (host.replace("localhost", "127.0.0.1"), 0))]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.0.1", "[::1]", "node3", "node5"])
@pytest.mark.parametrize("launcher", ["SLURM", "Open MPI"])
@pytest.mark.parametrize("process", [0, 3])
def test_hosts_would_look_for_process_0_on_themselves(host, launcher, process, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("tried"))
    changes = {
        "SLURM": SLURM | {"SLURM_PROCID": str(process)},
        "Open MPI": OPEN_MPI | {"OMPI_COMM_WORLD_RANK": str(process)},
    }
    for name, value in changes[launcher].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"--coordinator=.*: every one of the 2 hosts takes .* for itself") as raised:
        distributed.join(f"{host}:{free_port()}", None, None)
    assert "\n" not in str(raised.value) and host in str(raised.value)


@pytest.mark.parametrize(
    ("host", "changes"),
    [
        ("10.0.0.3", {}),
        ("node4", {}),
        ("node6", {}),
        ("nowhere", {}),
        (
            "localhost",
            {"SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1"},
        ),
    ],
)
def test_other_coordinators_are_tried(host, changes, monkeypatch):
    tried = []
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(jax.distributed, "initialize", lambda where, *_, **__: tried.append(where))
    for name, value in (SLURM | changes).items():
        monkeypatch.setenv(name, value)
    distributed.join(f"{host}:1234", None, None)
    assert tried == [f"{host}:1234"]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node3", "node3"),
        ("node3,host2", "node3"),
        ("node[3-4]", "node3"),
        ("node[003,7-9],host2", "node003"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_step(nodes, first):
    assert distributed._first_host(nodes) == first


@pytest.mark.parametrize(("node", "refused"), [("0", False), ("1", True)])
def test_the_first_host_as_another_one_resolves_it(node, refused, monkeypatch):
    """On the first host itself its name may be such an address; the others do not find it then."""
    tried = []
    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    monkeypatch.setattr(jax.distributed, "initialize", lambda where, *_, **__: tried.append(where))
    for name, value in (SLURM | {"SLURM_NODEID": node}).items():
        monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(UserError, match="SLURM's first host is node3, which this one, .*, takes for itself"):
            distributed.join(None, None, None)
    else:
        distributed.join(None, None, None)
    assert len(tried) == (not refused)


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


def test_a_process_of_which_nothing_is_known_is_alone(monkeypatch):
    monkeypatch.setenv("TPU_ML_PLATFORM", "Tensorflow")  # as TensorFlow leaves it anywhere
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # a pod, but of no indexed Job
    jax.devices()  # after which nobody could be joined
    distributed.join(None, None, None)
    distributed.join("localhost:1234", 1, 0)


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
        (SLURM, ("SLURM", 8, 5, (1,), True)),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, ("SLURM", 1, 0, None, True)),  # a shell on a node
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, ("SLURM", 2, 5, None, True)),  # one task a node takes all its GPUs
        (SLURM | {"CUDA_VISIBLE_DEVICES": "1"}, ("SLURM", 8, 5, None, True)),  # --gpus-per-task=1
        (OPEN_MPI, ("Open MPI", 4, 3, (1,), False)),
        (SLURM | OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:5"}, ("Open MPI", 4, 3, (2, 3), True)),
    ],
)
def test_launchers(environment, expected):
    found = distributed.launcher(environment)
    assert found == (expected and distributed.Launcher(*expected))


# Two nodes of eight GPUs, four tasks on each; this is the second of its node.
EIGHT = SLURM | {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({}, (2, 3)),  # --gpus-per-node=8 alone: all tasks see all
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, None),  # --gpus-per-task=2, numbered by cgroups
        ({"SLURM_GPUS_PER_TASK": "a100:2", "CUDA_VISIBLE_DEVICES": "2,3"}, None),  # or as they are on the node
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2"}, None),
        ({"SLURM_GPUS_PER_TASK": "2"}, (2, 3)),  # with --gpu-bind=none
        ({"SLURM_GPUS_PER_TASK": "1"}, (1,)),
        ({"CUDA_VISIBLE_DEVICES": "4,5"}, None),  # --gpu-bind=map_gpu, closest or single:2
        ({"CUDA_VISIBLE_DEVICES": "4"}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1a,GPU-2b", "SLURM_GPUS_ON_NODE": "gpu:h100:8"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2"}, None),  # one task a node, --gpus-per-node=8
        ({"SLURM_STEP_NUM_TASKS": "16"}, (1,)),  # one task a GPU, all seen by all
        ({"SLURM_STEP_NUM_TASKS": "6"}, (2, 3)),  # three tasks for eight GPUs
        ({"CUDA_VISIBLE_DEVICES": ""}, None),  # none for this step
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_GPUS_ON_NODE": "2", "JAX_PLATFORMS": "cpu"}, None),  # nor asked for
    ],
)
def test_gpus_of_a_task_of_slurm(changes, gpus):
    assert distributed.launcher(EIGHT | changes).gpus == gpus
    if "CUDA_VISIBLE_DEVICES" not in changes:
        return
    amd = {key: value for key, value in (EIGHT | changes).items() if key != "CUDA_VISIBLE_DEVICES"}
    amd["ROCR_VISIBLE_DEVICES"] = changes["CUDA_VISIBLE_DEVICES"]
    assert distributed.launcher(amd).gpus == gpus


def test_gpus_that_slurm_lists_nowhere_are_shared_out_by_their_number():
    without = {key: value for key, value in EIGHT.items() if key != "CUDA_VISIBLE_DEVICES"}
    assert distributed.launcher(without).gpus == (2, 3)
    del without["SLURM_GPUS_ON_NODE"]
    assert distributed.launcher(without).gpus == (1,)


def test_tasks_that_would_share_a_gpu_are_refused():
    with pytest.raises(UserError, match="4 processes on a node see the same 2 GPUs: start one for each GPU"):
        distributed.launcher(EIGHT | {"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1"})


def test_the_devices_of_a_run_in_one_line():
    described = [types.SimpleNamespace(process_index=n // 2, device_kind="NVIDIA H100") for n in range(8)]
    assert distributed.devices_in_words(described) == "4 processes with 2 of 8 devices each (NVIDIA H100)"


def test_open_mpi_5_does_not_name_the_first_host(monkeypatch):
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="Open MPI started 4 processes but does not say where"):
        distributed.join(None, None, None)
