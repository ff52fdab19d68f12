"""How XLA compiles for the tests: compiling is most of their work, and nothing they check depends on LLVM's optimisation.

Fusion, partitioning and buffers are XLA's own passes, which all run.
"""

import os
import re

QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many virtual devices, and with the instruction set that this one is held to."""
    held_to = re.findall(r"--xla_cpu_max_isa=\S+", os.environ.get("XLA_FLAGS", ""))
    return " ".join([QUICKLY, f"--xla_force_host_platform_device_count={devices}", *held_to[-1:]])
