"""Joins several processes into one run: who they are, how they find each other, what the loss of one means to the others.

Each process runs the same program on its own devices; JAX makes one machine of them. Process 0 also runs JAX's
coordination service, through which the others learn of each other and by whose heartbeats they notice that one is gone.
"""

import collections
import contextlib
import dataclasses
import ipaddress
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence

import jax

from medjax.errors import UserError
from medjax.runtime.out_of_memory import is_out_of_memory

# Operations, not science, so they are the environment's and not the configuration's.
JOIN_SECONDS = "MEDJAX_JOIN_SECONDS"  # how long the processes of a run wait for the last of them to start
LOST_SECONDS = "MEDJAX_LOST_SECONDS"  # how long one may be silent before the others give it up
DEFAULT_SECONDS = {JOIN_SECONDS: 300, LOST_SECONDS: 100}

PROXY = "grpc_proxy"  # small letters, as gRPC reads it

# In which a launcher lists the GPUs of a process: NVIDIA's, then AMD's.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")

BY_HAND = "give --coordinator=HOST:PORT --num_processes=N --process_id=I"

# What JAX's exceptions say when the cause is another process: gloo's on CPUs, NCCL's on GPUs, the coordination service's.
SIGNS_OF_LOSS = ("gloo", "nccl", "connection", "socket", "unavailable", "coordination", "heartbeat", "barrier")


@dataclasses.dataclass(frozen=True)
class Launcher:
    """Holds what `srun` or `mpirun` says to a process it starts.

    Attributes:
      name: name of the launcher.
      num_processes: number of processes of the run.
      process_id: number of this process.
      gpus: numbers of the GPUs, of those that this process sees, that are its own; None: all of them.
      names_coordinator: whether JAX can tell from the environment where process 0 is.
      hosts: number of computers that the processes are on.
    """

    name: str
    num_processes: int
    process_id: int
    gpus: tuple[int, ...] | None
    names_coordinator: bool
    hosts: int = dataclasses.field(default=1, compare=False)


def launcher(environment: Mapping[str, str]) -> Launcher | None:
    """Finds the launcher that started this process, or None.

    A step of a SLURM allocation counts and not the allocation: in a shell on a node the program is alone, however many
    tasks were allocated.

    Raises:
      UserError: processes of one node would have to share a GPU.
    """
    if "OMPI_COMM_WORLD_SIZE" in environment:
        together = int(environment["OMPI_COMM_WORLD_LOCAL_SIZE"])
        return Launcher(
            name="Open MPI",
            num_processes=int(environment["OMPI_COMM_WORLD_SIZE"]),
            process_id=int(environment["OMPI_COMM_WORLD_RANK"]),
            gpus=own_gpus(environment, together, int(environment["OMPI_COMM_WORLD_LOCAL_RANK"])),
            names_coordinator="OMPI_MCA_orte_hnp_uri" in environment,  # Open MPI 4 and older
            hosts=-(-int(environment["OMPI_COMM_WORLD_SIZE"]) // together),
        )
    if "SLURM_STEP_NODELIST" in environment and "SLURM_PROCID" in environment:
        tasks = int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"])
        nodes = int(environment.get("SLURM_STEP_NUM_NODES", 1))
        return Launcher(
            name="SLURM",
            num_processes=tasks,
            process_id=int(environment["SLURM_PROCID"]),
            gpus=own_gpus(environment, -(-tasks // nodes), int(environment["SLURM_LOCALID"])),
            names_coordinator=True,
            hosts=nodes,
        )
    return None


def own_gpus(environment: Mapping[str, str], processes_here: int, number_here: int) -> tuple[int, ...] | None:
    """Finds the share of this process in the GPUs that all of its node see; None if what it sees is its own.

    SLURM deals GPUs out under --gpus-per-task and --gpu-bind: then a task sees fewer than its step has on the node.

    Args:
      environment: environment variables of the process.
      processes_here: number of the run's processes on this node.
      number_here: number of this process among them, from 0.

    Raises:
      UserError: there are fewer GPUs than processes.
    """
    lists = [environment[name] for name in VISIBLE if name in environment]
    seen = len([gpu for gpu in lists[0].split(",") if gpu.strip()]) if lists else None
    on_node, a_task = (_count(environment.get(name)) for name in ("SLURM_GPUS_ON_NODE", "SLURM_GPUS_PER_TASK"))
    dealt_out = seen is not None and (seen <= 1 or seen <= (a_task or 0) or seen < (on_node or 0))
    if processes_here == 1 or dealt_out or environment.get("JAX_PLATFORMS") == "cpu":
        return None
    shared = seen or on_node
    if shared is None:  # how many there are is not told; of CPUs, none
        return (number_here,)
    share = min(a_task or shared, shared // processes_here)
    if share < 1:
        raise UserError(
            f"{processes_here} processes on a node see the same {shared} GPUs: start one for each GPU, or one for the node"
        )
    return tuple(range(number_here * share, (number_here + 1) * share))


def _count(text: str | None) -> int | None:
    """Reads the number in what SLURM writes as "2", "a100:2" or "gpu:a100:2"; None where there is none."""
    number = (text or "").rpartition(":")[2]
    return int(number) if number.isdecimal() else None


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of this run, if there are any; call it before anything uses a device.

    Flags first; what they leave open is found from SLURM's or Open MPI's variables; without any flag JAX also knows the
    hosts of a TPU slice and of a Kubernetes Job. Where nothing tells of others, this process is alone.

    Args:
      coordinator: HOST:PORT of process 0, at which it will listen.
      num_processes: number of processes of the run.
      process_id: number of this process, 0 to num_processes - 1.

    Raises:
      UserError: the flags are not whole, the port is taken, or the environment tells too little.
    """
    found = launcher(os.environ)
    if coordinator is None and (num_processes is not None or process_id is not None):
        raise UserError("--coordinator is missing: --num_processes and --process_id need it; " + BY_HAND)
    if found and num_processes is None and process_id is None:
        num_processes, process_id = found.num_processes, found.process_id
    if coordinator is not None:
        _check_flags(coordinator, num_processes, process_id)
    elif found and num_processes > 1 and not found.names_coordinator:
        raise UserError(
            f"{found.name} started {num_processes} processes but does not say where: add --coordinator=HOST:PORT"
        )
    if num_processes == 1 or not (coordinator or found or _cluster_known_to_jax(os.environ)):
        return

    if found and found.hosts > 1:
        _check_reachable(coordinator, os.environ, found.hosts)

    # With JAX's own handling, SIGTERM would never reach the handlers of interrupt.py.
    jax.config.update("jax_enable_preemption_service", False)
    seconds = _seconds(JOIN_SECONDS)
    place = f"process {process_id} of {num_processes}" if num_processes else "this process"
    at = coordinator or "the address found"
    if coordinator and _is_loopback(coordinator.rpartition(":")[0]):
        at += ", which every host takes for itself"
    try:
        with _ends_after(seconds, f"{place} waited {seconds} s for the others at {at}"), _without_proxy():
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                local_device_ids=found.gpus if found else None,
                cluster_detection_method="deactivate" if coordinator else None,
                initialization_timeout=seconds + 60,  # JAX would abort; ours comes first
                heartbeat_timeout_seconds=_seconds(LOST_SECONDS),
                shutdown_timeout_seconds=_seconds(LOST_SECONDS),
            )
    except (ImportError, OSError) as error:
        # A TPU host without its metadata server is one that somebody runs by itself, in a notebook for instance.
        print(f"no other hosts can be found ({_first_line(error)}): going on with this one", file=sys.stderr)
    except (RuntimeError, ValueError) as error:
        if not found and not coordinator and "coordinator_address should be defined" in str(error):
            return  # a TPU of one host, or a pod without the kubernetes package
        raise UserError(f"the other processes cannot be joined ({_first_line(error)}): {BY_HAND}") from error
    if found and found.gpus is None:
        for kind in ("cuda", "rocm"):  # JAX took one GPU for each process of a launcher; here it is all
            jax.config.update(f"jax_{kind}_visible_devices", "all")
    if jax.process_count() > 1 and jax.process_index() == 0:
        print(devices_in_words(jax.devices()), file=sys.stderr)


def devices_in_words(devices: Sequence[jax.Device]) -> str:
    """Describes the devices of a run in one line, so that it shows if some of a machine are left out."""
    held = collections.Counter(device.process_index for device in devices)
    each = " or ".join(map(str, sorted(set(held.values()))))
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    return f"{len(held)} processes with {each} of {len(devices)} devices each ({kinds})"


def leave() -> None:
    """Waits for the other processes to come to their end too: process 0 must not take the coordination service away before."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Lets only process 0 write progress and notes to stderr inside; the others are quiet but for what they raise."""
    if jax.process_index() == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


@contextlib.contextmanager
def explain_lost_process() -> Iterator[None]:
    """Turns what JAX raises when another process is gone into one line.

    It is raised at once where the machines notice that a connection broke, as on CPUs. Where they do not, JAX itself ends
    this process, with a report of its own and status 134, once the heartbeats have been missing for LOST_SECONDS.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if not is_lost_process(error):
            raise
        explained = UserError(
            f"process {jax.process_index()} lost another one ({_first_line(error)}): see what that one said, "
            "then start all of them again"
        )
        for note in getattr(error, "__notes__", ()):
            explained.add_note(note)
        raise explained from error


def lost_seconds() -> int:
    """Returns how long another process may be silent before it is given up."""
    return _seconds(LOST_SECONDS)


def is_lost_process(error: BaseException) -> bool:
    """Tells whether the cause of an error is that another process is gone."""
    if jax.process_count() == 1 or isinstance(error, UserError) or is_out_of_memory(error):
        return False
    return any(sign in str(error).lower() for sign in SIGNS_OF_LOSS)


def _check_flags(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    if num_processes is None or process_id is None:
        missing = "--num_processes" if num_processes is None else "--process_id"
        raise UserError(f"{missing} is missing and neither SLURM nor Open MPI tells it: {BY_HAND}")
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator={coordinator}: give HOST:PORT of process 0, such as node1:1234")
    if not 0 <= process_id < num_processes:
        raise UserError(f"--process_id is {process_id} of --num_processes={num_processes}: count from 0")
    if process_id == 0 and num_processes > 1:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            reason = os.strerror(error.errno).lower()
            raise UserError(f"--coordinator={coordinator}: no listening there ({reason}), give another port") from error


def _check_reachable(coordinator: str | None, environment: Mapping[str, str], hosts: int) -> None:
    """Raises UserError where hosts would look for process 0 on themselves."""
    if coordinator:
        host = coordinator.rpartition(":")[0]
        told = f"--coordinator={coordinator}: every one of the {hosts} hosts takes {host} for itself"
    else:
        host = _first_host(environment.get("SLURM_STEP_NODELIST", ""))
        if environment.get("SLURM_NODEID", "0") == "0":  # where it is its own name, and may well be such an address
            return
        told = f"SLURM's first host is {host}, which this one, {socket.gethostname()}, takes for itself"
    if host and _is_loopback(host):
        advice = "an address of process 0's host that the others reach, such as its IP"
        raise UserError(f"{told} (a loopback address): give with --coordinator=HOST:PORT {advice}")


def _first_host(nodes: str) -> str:
    """Finds the first of hosts that SLURM writes as "node[007-010,12],host2"."""
    found = re.match(r"([^,\[]*)(?:\[([^],-]*))?", nodes)
    return "".join(part or "" for part in found.groups())


def _is_loopback(host: str) -> bool:
    """Tells whether a name or an address means the computer itself on any computer, as /etc/hosts may have it of its name."""
    try:
        found = {place[4][0].partition("%")[0] for place in socket.getaddrinfo(host.strip("[]"), None)}
    except OSError:  # JAX tells of names that mean nothing
        return False
    return bool(found) and all(ipaddress.ip_address(address).is_loopback for address in found)


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """Lets the processes speak to process 0 itself: gRPC would go through `http_proxy`, which clusters set for the internet.

    An empty `grpc_proxy` goes before all others, and counts when the connection is made. JAX, which would warn of it, is told not
    to look for such variables.
    """
    before, looks = os.environ.get(PROXY), jax.config.read("jax_check_proxy_envs")
    os.environ[PROXY] = ""
    jax.config.update("jax_check_proxy_envs", False)
    try:
        yield
    finally:
        jax.config.update("jax_check_proxy_envs", looks)
        os.environ.pop(PROXY)
        if before is not None:
            os.environ[PROXY] = before


def _cluster_known_to_jax(environment: Mapping[str, str]) -> bool:
    """Tells whether JAX can find the other processes by itself: on a TPU host or in a pod of an indexed Kubernetes Job."""
    tpu = environment.get("TPU_ML_PLATFORM") == "JAX"  # which JAX sets on import where there are TPU chips
    pod = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return tpu or pod or "JAX_COORDINATOR_ADDRESS" in environment


def _seconds(variable: str) -> int:
    text = os.environ.get(variable, str(DEFAULT_SECONDS[variable]))
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{variable} is {text!r}: give a whole number of seconds")
    return int(text)


@contextlib.contextmanager
def _ends_after(seconds: float, line: str) -> Iterator[None]:
    """Ends the process, status 2, if the block takes longer: JAX waits in C++ and can only be left like that."""

    def end() -> None:
        print(f"launch.py: {line}: start all of them, or correct --coordinator", file=sys.stderr, flush=True)
        os._exit(2)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
