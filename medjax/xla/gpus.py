"""Describes each GPU, for XLA's compiler and by the rates that bound a step on it.

Sizes and clocks are those that XLA itself describes these devices by (openxla/xla, xla/backends/gpu/target_config/specs); matrix
rates and links are NVIDIA's data sheets', without sparsity. Between nodes a network card a GPU is assumed, as NVIDIA's own
systems have them; what a cluster really has may be less.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class GPU:
    """Describes a GPU in a node of its maker's design.

    Attributes:
      name: name that the device gives itself.
      memory: bytes.
      cores: number of streaming multiprocessors.
      bandwidth: bytes a second that its memory gives or takes.
      l2: bytes of the last cache.
      clock: GHz.
      shared_memory: bytes a core, and how many of them a block may ask for.
      lanes: float32 units a core.
      capability: compute capability, major and minor.
      matrix: FLOP/s of its matrix units on bfloat16.
      nvlink: bytes a second to the other GPUs of its node, in one direction.
      network: bytes a second to other nodes, in one direction: assumed.
    """

    name: str
    memory: int
    cores: int
    bandwidth: float
    l2: int
    clock: float
    shared_memory: tuple[int, int]
    lanes: int
    capability: tuple[int, int]
    matrix: float
    nvlink: float
    network: float

    @property
    def matrix_float32(self) -> float:
        """Returns the FLOP/s of its matrix units on float32, in TF32, XLA's own choice: half of bfloat16's."""
        return self.matrix / 2

    @property
    def usable(self) -> int:
        """Returns the bytes that a program may need: what is not in the compiler's account takes the rest."""
        return int(SHARE * self.memory)


# Of the memory: JAX keeps some, and cuDNN's workspace is chosen, and taken, only where the program runs.
SHARE = 0.9

AMPERE = {
    "cores": 108, "l2": 41943040, "clock": 1.41, "shared_memory": (167936, 166912), "lanes": 64, "capability": (8, 0),
    "matrix": 312e12, "nvlink": 300e9, "network": 25e9,
}  # fmt: skip
HOPPER = {
    "cores": 132, "l2": 52428800, "clock": 1.98, "shared_memory": (233472, 232448), "lanes": 128, "capability": (9, 0),
    "matrix": 989e12, "nvlink": 450e9, "network": 50e9,
}  # fmt: skip
BLACKWELL = {
    "cores": 148, "l2": 132644864, "clock": 1.965, "shared_memory": (233472, 232448), "lanes": 128, "capability": (10, 0),
    "matrix": 2225e12, "nvlink": 900e9, "network": 50e9,
}  # fmt: skip

GPUS = {
    "a100-40": GPU("NVIDIA A100-SXM4-40GB", 42331013120, bandwidth=1.5552e12, **AMPERE),
    "a100": GPU("NVIDIA A100-SXM4-80GB", 85100068864, bandwidth=2.03904e12, **AMPERE),
    "h100": GPU("NVIDIA H100 80GB HBM3", 84942979072, bandwidth=3.35232e12, **HOPPER),
    "h200": GPU("NVIDIA H200", 151397597184, bandwidth=4.8e12, **HOPPER),
    "b200": GPU("NVIDIA B200", 191514411008, bandwidth=7.67232e12, **BLACKWELL),
}


def target_config(gpu: GPU) -> str:
    """Writes a GPU as XLA's compiler takes it: a GpuTargetConfigProto in text."""
    major, minor = gpu.capability
    accelerated = " feature_extension: ACCELERATED_FEATURES" if major >= 9 else ""
    a_core, a_block = gpu.shared_memory
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {a_core}
  shared_memory_per_block_optin: {a_block}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {gpu.lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth:.0f}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {gpu.memory}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  cuda_compute_capability {{ major: {major} minor: {minor}{accelerated} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 12 minor: 8 }}
device_description_str: "{gpu.name}"
"""
