"""Chooses the fastest way to compute a convolution, from a small table by machine, channels and size.

All ways give the same to rounding and have the same parameters; benchmarks/lowering_table.py prints what each costs.
"""

import dataclasses
import math

import jax

from medjax.layers.spatial import Triple


@dataclasses.dataclass(frozen=True)
class Way:
    """How convolutions of one level of a network are computed.

    Attributes:
      lowering: one of `conv.LOWERINGS`.
      fold: voxels of W side by side in the channels, see `fold`.
    """

    lowering: str
    fold: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """A way, and the levels it is for: of at most so many channels and at most so many voxels an edge."""

    way: Way
    channels: float = math.inf
    edge: float = math.inf


# On a TPU a fold fills the 128 lanes of a register and of the matrix unit, which its zeros, as many as taps (three times as many
# for a fold of 4), do not outweigh where that many lanes are empty. Small levels are mostly kernels, and planes take those apart.
TPU = (
    Row(Way("direct"), edge=8),
    Row(Way("planes", fold=4), channels=32),
    Row(Way("planes", fold=2), channels=64),
    Row(Way("planes")),
)

# The first row that holds a level counts. "cpu" was measured; "gpu" is an expectation: cuDNN has 3D convolutions of its own.
# TPUs are by the compiler's estimates for v5e, and for 64 channels on v6e; the others are taken to be alike.
TABLE = {
    "cpu": (Row(Way("winograd")),),
    "gpu": (Row(Way("direct")),),
    "v4": TPU,
    "v5e": TPU,
    "v5p": TPU,
    "v6e": TPU,
}

MACHINES = tuple(TABLE)

TPU_KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p"}
TPU_KINDS |= {"TPU v6 lite": "v6e", "TPU v6e": "v6e"}


def machine_of(device: jax.Device) -> str:
    """The machine of `TABLE` that a device is, or is nearest to."""
    if device.platform in TABLE:
        return device.platform
    return TPU_KINDS.get(device.device_kind, "v6e") if device.platform == "tpu" else "gpu"


def way_for(machine: str, channels: int, size: Triple) -> Way:
    """How to compute the convolutions of a level of [B, D, H, W, channels] with this `size` (D, H, W).

    A width that cannot be folded is not.
    """
    way = next(row.way for row in TABLE[machine] if channels <= row.channels and max(size) <= row.edge)
    return way if size[2] % way.fold == 0 else dataclasses.replace(way, fold=1)


def lowering_for(machine: str) -> str:
    """How to compute the convolutions of a network that has one way for all."""
    return TABLE[machine][-1].way.lowering
