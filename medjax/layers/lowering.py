"""Chooses the fastest way to compute a convolution, from a small table by machine, channels and size.

All ways give the same to rounding and have the same parameters; benchmarks/lowering_table.py prints what each costs.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from medjax.layers.spatial import Triple


@dataclasses.dataclass(frozen=True)
class Way:
    """Says how convolutions of one level of a network are computed.

    Attributes:
      lowering: one of `conv.LOWERINGS`.
      fold: voxels of W side by side in the channels, see `fold`.
    """

    lowering: str
    fold: int = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """Gives a way, and the levels it is for: of at most so many channels and at most so many voxels an edge."""

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


@dataclasses.dataclass(frozen=True)
class CPURow:
    """Gives a lowering, and the single convolutions it is for.

    Attributes:
      lowering: "winograd" or "stacked".
      taps: the only kernel size it is for, (D, H, W); None for any.
      strides: the only strides it is for; None for any.
      dtype: the only dtype it is for; None for any.
      voxels: the fewest voxels of the input, all examples together.
      channels: the fewest channels, of the input and of the output each.
      products: the least number of input channels times output channels.
      work: the least number of voxels times `products`.
    """

    lowering: str
    taps: Triple | None = None
    strides: Triple | None = None
    dtype: jnp.dtype | None = None
    voxels: int = 0
    channels: int = 0
    products: int = 0
    work: int = 0


# What the way "winograd" means for one convolution of a network: the first row that holds it counts. Winograd's algorithm saves
# multiplications, which voxels, channels and features all multiply; its transforms grow with channels plus features, and
# those of the kernel do not shrink with the volume. The bounds were measured, see docs/benchmarks.md. bfloat16 would not bear
# its sums.
CPU_CONVOLUTIONS = (
    CPURow("winograd", (3, 3, 3), (1, 1, 1), jnp.float32, voxels=8**3, channels=8, products=512, work=2**21),
    CPURow("stacked"),
)

TPU_KINDS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p"}
TPU_KINDS |= {"TPU v6 lite": "v6e", "TPU v6e": "v6e"}


def machine_of(device: jax.Device) -> str:
    """Returns the machine of `TABLE` that a device is, or is nearest to."""
    if device.platform in TABLE:
        return device.platform
    return TPU_KINDS.get(device.device_kind, "v6e") if device.platform == "tpu" else "gpu"


def way_for(machine: str, channels: int, size: Triple) -> Way:
    """Returns how to compute the convolutions of a level of [B, D, H, W, channels] with this `size` (D, H, W).

    A width that cannot be folded is not.
    """
    way = next(row.way for row in TABLE[machine] if channels <= row.channels and max(size) <= row.edge)
    return way if size[2] % way.fold == 0 else dataclasses.replace(way, fold=1)


def lowering_for(machine: str) -> str:
    """Returns how to compute the convolutions of a network that has one way for all."""
    return TABLE[machine][-1].way.lowering


def cpu_lowering_for(shape: tuple[int, ...], kernel_shape: tuple[int, ...], strides: Triple, dtype: jnp.dtype) -> str:
    """Returns the lowering, "winograd" or "stacked", of one convolution on a CPU.

    Args:
      shape: [B, D, H, W] of the input.
      kernel_shape: [kD, kH, kW, C, features].
      strides: strides along (D, H, W).
      dtype: data type of the input and the kernel.
    """
    taps, (channels, features) = kernel_shape[:3], kernel_shape[3:]
    voxels, products = math.prod(shape), channels * features
    return next(
        row.lowering
        for row in CPU_CONVOLUTIONS
        if row.taps in (None, taps)
        and row.strides in (None, strides)
        and (row.dtype is None or row.dtype == dtype)
        and voxels >= row.voxels
        and min(channels, features) >= row.channels
        and products >= row.products
        and voxels * products >= row.work
    )
