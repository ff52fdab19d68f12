"""Freed memory stays with the process that freed it."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from medjax.runtime.host_memory import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for _ in range(2):  # 64 MB, which malloc would take from the system and give back each time
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(1 << 26, np.uint8).fill(1)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def faults_of_a_second_array(policy: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, policy], capture_output=True, text=True, check=False)
    if run.returncode == 3:
        pytest.skip("this C library is not glibc")
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    assert faults_of_a_second_array("keep") < 100
    # Huge pages may make these fewer than the 16384 small ones.
    assert faults_of_a_second_array("default") > faults_of_a_second_array("keep")
