"""Bounds the time of a step from below, for GPUs, whose compiler estimates none: a roofline, never a measurement.

Each part of the device would need so many seconds if it were always busy and never waited for another: the slowest of them binds.
Sources: our own count of FLOPs (flops.py), the compiled program's traffic and communication, and the rates of gpus.py.
"""

import dataclasses

from medjax.xla.gpus import GPU


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Holds the seconds that each part of a GPU needs for its share of a step.

    Attributes:
      matrix: FLOPs at the rate of the matrix units.
      memory: bytes read and written at the memory's bandwidth.
      nvlink: bytes sent within the node, in one direction.
      network: bytes sent to other nodes, at the rate that is assumed.
    """

    matrix: float
    memory: float
    nvlink: float
    network: float

    @property
    def seconds(self) -> float:
        """Returns the seconds below which no step can come."""
        return max(dataclasses.astuple(self))

    @property
    def binds(self) -> str:
        """Names the part that needs the most."""
        parts = dataclasses.asdict(self)
        return max(parts, key=parts.get)


def roofline(gpu: GPU, dtype: str, flops: float, moved: float, within: float, between: float) -> Roofline:
    """Bounds one step on one device.

    Args:
      gpu: whose rates.
      dtype: of the network's computations, "bfloat16" or "float32".
      flops: operations of this device.
      moved: bytes that its program reads and writes in memory.
      within: bytes that it sends to GPUs of its node.
      between: bytes that it sends to other nodes.
    """
    rate = gpu.matrix if dtype == "bfloat16" else gpu.matrix_float32
    return Roofline(flops / rate, moved / gpu.bandwidth, within / gpu.nvlink, between / gpu.network)
