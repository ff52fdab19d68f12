"""Runs of launch.py in processes of their own, forked from one that has imported everything and begun nothing."""

import dataclasses
import functools
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver

from soak import ROOMS

TOO_LONG = (
    1800.0  # seconds, after which a run is taken to hang; where others have the cores, compiling alone takes minutes
)


@functools.cache
def forks() -> multiprocessing.context.ForkServerContext:
    """Starts the server that processes are forked from; JAX has no backend there yet, so that forking it is safe."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["soak.imported"])
    paths = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*map(str, ROOMS), paths]))  # where it finds that module
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if paths is not None:
            os.environ["PYTHONPATH"] = paths
    return context


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
      status: its exit status; minus the signal's number where it was killed; None where it had to be ended by us.
      out, err: what it wrote.
      seconds: how long it took.
    """

    status: int | None
    out: str
    err: str
    seconds: float

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr that launch.py itself wrote."""
        return [line for line in self.err.replace("\r", "\n").splitlines() if line.startswith("launch.py: ")]

    @property
    def has_traceback(self) -> bool:
        """Whether it wrote one."""
        return "Traceback (most recent call last)" in self.err

    @property
    def in_one_line(self) -> bool:
        """Whether it ended as a mistake of the user's, or of the machine's, shall: status 2 after one line."""
        return self.status == 2 and len(self.complaints) == 1 and not self.has_traceback

    @property
    def told(self) -> str:
        """Its end in one line."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip()]
        said = self.complaints or lines[-1:]
        return f"status {self.status}: {' '.join(said)[-300:]}"


class Run:
    """A run of launch.py that has begun.

    Args:
      argv: the command line, from "launch.py" on.
      folder: for what it writes to stdout and stderr.
      environment: variables it has besides.
    """

    def __init__(self, argv: Sequence[str], folder: pathlib.Path, environment: Mapping[str, str]):
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.err")))
        self._out, self._err = (folder / f"{number:03d}.{kind}" for kind in ("out", "err"))
        for path in (self._out, self._err):
            path.touch()
        self._process = forks().Process(
            target=_launch, args=(list(argv), str(self._out), str(self._err), dict(environment)), daemon=True
        )
        self._begin = time.monotonic()
        self._process.start()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Sends SIGKILL."""
        self._process.kill()

    def end(self, seconds: float = TOO_LONG) -> Ended:
        """Waits for its end, at most so many seconds; one that hangs is killed."""
        self._process.join(seconds)
        status = self._process.exitcode
        if status is None:
            self._process.kill()
            self._process.join()
        took = time.monotonic() - self._begin
        return Ended(status, self._out.read_text(errors="replace"), self._err.read_text(errors="replace"), took)


def run(argv: Sequence[str], folder: pathlib.Path, environment: Mapping[str, str]) -> Ended:
    """Runs launch.py to its end."""
    return Run(argv, folder, environment).end()


def _launch(argv: list[str], out: str, err: str, environment: dict[str, str]) -> None:
    for number, path in ((1, out), (2, err)):
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(handle, number)
        os.close(handle)
    os.environ.update(environment)
    import jax

    import launch
    from xla_flags import xla_flags

    # XLA reads the first when its backend begins; JAX has read its own on import.
    os.environ["XLA_FLAGS"] = xla_flags(1)
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        if name in environment:
            kind = float if name.endswith("SECS") else str
            jax.config.update(name.lower(), kind(environment[name]))
    try:
        status = launch.main(argv, own_process=True)
    except BaseException:  # what Python itself would do
        sys.excepthook(*sys.exc_info())
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # as launch.py does
