"""Small runs of launch.py, in this process or in one of their own."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import nibabel
import numpy as np

from xla_flags import xla_flags

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

# A network and volumes so small that compiling them is most of the work, on one of the test's eight devices.
SMALL = (
    "--config.model.base_channels=4",
    "--config.model.groups=2",
    "--config.model.channel_multipliers=(1,2)",
    "--config.data.size=(16,16,16)",
    "--config.data.batch_size=2",
    "--config.mesh.data=1",
    "--config.train.eval_volumes=2",
    "--config.train.log_every=1",
    "--config.sample.count=2",
    "--config.sample.batch_size=2",
    "--config.sample.steps=3",
)
# Seconds after which a process has come to a stand. Nothing is as slow, on whatever computer beside whatever else.
LIMIT = 900
FOLDER = f"--config={ROOT}/configs/folder.py:tiny"


def command(scans: pathlib.Path, tmp_path: pathlib.Path, *more: str) -> list[str]:
    """Arguments of a small run on a folder of scans, workdir tmp_path/run."""
    data = (f"--config.data.root={scans}", f"--config.data.cache={tmp_path}/cache", f"--workdir={tmp_path}/run")
    # A tuple given twice would be one long tuple, so what is given again is left out.
    given = {argument.partition("=")[0] for argument in more}
    return ["launch.py", FOLDER, *data, *(a for a in SMALL if a.partition("=")[0] not in given), *more]


def launch(argv: list[str], capsys) -> tuple[int, str, list[str]]:
    """Runs launch.py in this process: status, stdout, lines on stderr without progress."""
    import launch

    status = launch.main(argv)
    out, err = capsys.readouterr()
    return status, out, [line for line in err.replace("\r", "\n").splitlines() if line.startswith("launch.py: ")]


def result(out: str) -> dict:
    """The JSON object that a job's last line is."""
    return json.loads(out.splitlines()[-1])


def start(argv: list[str], devices: int = 1, **variables: str) -> subprocess.Popen:
    """Runs launch.py in a process of its own, with so many virtual devices."""
    return _begin(["launch.py", *argv[1:]], devices, variables)


def start_signalled(argv: list[str], number: int, function: str, call: int) -> subprocess.Popen:
    """The same on one device; at this call of MODULE:NAME it sends itself the signal (signalled_launch.py)."""
    return _begin(["tests/helpers/signalled_launch.py", str(int(number)), function, str(call), *argv[1:]], 1, {})


def _begin(arguments: list[str], devices: int, variables: dict[str, str]) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices), "JAX_PLATFORMS": "cpu"} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    script, *rest = arguments
    return subprocess.Popen([sys.executable, str(ROOT / script), *rest], env=environment, **pipes)


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def start_all(argv: list[str], count: int, devices: int = 1, **variables: str) -> list[subprocess.Popen]:
    """Runs launch.py in `count` processes that are one run, each with so many virtual devices."""
    together = (f"--coordinator=localhost:{free_port()}", f"--num_processes={count}")
    return [start([*argv, *together, f"--process_id={i}"], devices, **variables) for i in range(count)]


def wait_until(condition: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    """Looks again and again, while the processes run. Fails if one of them ends first, or after LIMIT seconds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert all(process.poll() is None for process in processes), ends(processes)
        assert time.monotonic() < end, f"not within {LIMIT} s"
        time.sleep(0.02)


def ends(processes: list[subprocess.Popen], timeout: float = LIMIT) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each, when all have ended; none is left behind."""
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            texts = list(pool.map(lambda process: process.communicate(timeout=timeout), processes))
        finally:
            for process in processes:
                process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(processes, texts, strict=True)]


def write_scan(path: pathlib.Path, seed: int = 0, shape=(20, 18, 16), affine=None) -> pathlib.Path:
    """A blob on noise, as NIfTI."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, edge) for edge in shape), indexing="ij"))
    centre = rng.uniform(-0.3, 0.3, (3, 1, 1, 1))
    array = 800 * np.exp(-4 * ((grid - centre) ** 2).sum(axis=0)) + rng.uniform(0, 50, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-2.0, 2.0, 2.5, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), affine), path)
    return path


def write_scans(folder: pathlib.Path, count: int = 6) -> pathlib.Path:
    """A folder of scans of as many subjects."""
    for n in range(count):
        write_scan(folder / f"subject_{n}/t1.nii.gz", seed=n)
    return folder


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    """Every file below a folder and its content."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
