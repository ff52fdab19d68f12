"""How XLA compiles for the tests: compiling is most of their work, and nothing they check depends on LLVM's optimisation.

Fusion, partitioning and buffers are XLA's own passes, which all run.
"""

QUICKLY = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of a process with so many virtual devices."""
    return f"{QUICKLY} --xla_force_host_platform_device_count={devices}"
