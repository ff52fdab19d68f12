"""Starts work_of_two.py in two processes, or in one of the two."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

from small_runs import ROOT, ends, free_port
from xla_flags import xla_flags

WORK = pathlib.Path(__file__).parent / "work_of_two.py"


def begin(job: str, processes: Sequence[int], *more: str, devices: int = 2, **variables: str) -> list[subprocess.Popen]:
    """Starts these of the two processes, with so many virtual devices each."""
    flags = {"XLA_FLAGS": xla_flags(devices), "JAX_PLATFORMS": "cpu"}
    port, environment = str(free_port()), os.environ | flags | {"PYTHONPATH": str(ROOT)} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return [subprocess.Popen([sys.executable, WORK, job, port, str(i), *more], **pipes) for i in processes]


def work_of_two(job: str, *more: str) -> list:
    """What each of the two found."""
    found = ends(begin(job, (0, 1), *more))
    assert [status for status, _, _ in found] == [0, 0], found
    return [json.loads(out.splitlines()[-1]) for _, out, _ in found]
