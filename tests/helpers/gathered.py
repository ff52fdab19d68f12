"""Lists what a mesh that cuts D or H makes a device fetch whole, network by network: tests hold compiled programs against it."""

import math
from collections.abc import Mapping

import jax.numpy as jnp
from jax.sharding import PartitionSpec

from medjax.layers.spatial import volume_spec
from medjax.models.factorized_unet import SLICE_HEAD_CHANNELS, FactorizedUNet
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet


def gathered_by_unet(network: UNet, shape: tuple[int, int, int, int], mesh: Mapping[str, int]) -> dict[str, int]:
    """All that a mesh which cuts D or H makes a device fetch whole, in a forward pass; the backward pass fetches as much again.

    Attention gathers its keys and values. Where a level is too small to stay cut, both paths through the residual block
    that comes down to it are gathered after pooling; the levels below are whole already.

    Args:
      network: with any options.
      shape: [B, D, H, W] of its input.
      mesh: axis sizes.

    Returns:
      Bytes a device by the name of the layer.
    """
    levels, base, itemsize = len(network.channel_multipliers), network.base_channels, jnp.dtype(network.dtype).itemsize
    halvings = [(0, 0 if network.keep_depth else level, level, level) for level in range(levels)]
    shapes = [tuple(n >> times for n, times in zip(shape, level, strict=True)) for level in halvings]
    specs = [volume_spec(level_shape, mesh) for level_shape in shapes]
    found = {}

    def gather(name: str, arrays: int, level: int, width: int, spec: PartitionSpec) -> None:
        found[name] = arrays * share((*shapes[level], width), spec, mesh) * itemsize

    def attend(name: str, level: int, width: int) -> None:
        if any(specs[level][1:]):
            gather(name, 2, level, width, PartitionSpec(specs[level][0]))

    widths = [base]
    for level, multiplier in enumerate(network.channel_multipliers):
        for i in range(network.blocks_per_level):
            widths.append(multiplier * base)
            if 2**level in network.attention_factors:
                attend(f"down_{level}_attention_{i}", level, widths[-1])
        if level < levels - 1:
            widths.append(multiplier * base)
            if specs[level + 1] != specs[level]:
                gather(
                    f"down_{level}_resample",
                    2 if network.resample_blocks else 1,
                    level + 1,
                    widths[-1],
                    specs[level + 1],
                )
    if network.middle_attention:
        attend("middle_attention", levels - 1, widths[-1])
    for level, multiplier in reversed(list(enumerate(network.channel_multipliers))):
        for i in range(network.blocks_per_level + 1):
            widths.pop()
            width = multiplier * base if network.skip == "concat" or not widths else widths[-1]
            if 2**level in network.attention_factors:
                attend(f"up_{level}_attention_{i}", level, width)
    return found


def gathered_by_wavelet_unet(
    network: WaveletUNet, shape: tuple[int, int, int, int], mesh: Mapping[str, int]
) -> dict[str, int]:
    """All that a mesh which cuts D or H makes a device fetch whole, in a forward pass, as `gathered_by_unet`.

    Attention gathers its keys and values. Where a resolution is too small to stay cut, all that comes down to it is
    gathered: both paths of the block, its details and the subbands of the pyramid.

    Args:
      network: with any options.
      shape: [B, D, H, W] of its input, which has as many channels as its output.
      mesh: axis sizes.

    Returns:
      Bytes a device by the name of the layer.
    """
    itemsize = jnp.dtype(network.dtype).itemsize
    shapes = [(shape[0], *(n >> i for n in shape[1:])) for i in range(network.resolutions)]
    specs = [volume_spec(each, mesh) for each in shapes]
    widths = [multiplier * network.base_channels for multiplier in network.channel_multipliers]
    found = {}

    def attend(name: str, resolution: int, width: int, times: int = 1) -> None:
        if any(specs[resolution][1:]):
            whole = PartitionSpec(specs[resolution][0])
            found[name] = times * 2 * share((*shapes[resolution], width), whole, mesh) * itemsize

    pyramid = [network.out_channels, *widths[:-1]]
    for level, width in enumerate(widths):
        for i in range(network.blocks_per_level):
            if 2**level in network.attention_factors:
                attend(f"down_{level}_attention_{i}", level, width)
            if 2 ** (level + 1) in network.attention_factors:
                times = 2 if i == network.blocks_per_level - 1 else 1
                attend(f"up_{level}_attention_{i}", level + 1, width, times)
        if specs[level + 1] != specs[level]:
            below, spec = shapes[level + 1], specs[level + 1]
            found[f"down_{level}_resample"] = share((*below, 9 * width), spec, mesh) * itemsize
            # The first one's subbands are of the input, float32.
            found[f"down_{level}_pyramid"] = share((*below, 8 * pyramid[level]), spec, mesh) * (
                itemsize if level else 4
            )
    if network.middle_attention:
        attend("middle_attention", network.resolutions - 1, widths[-1])
    return found


def gathered_by_factorized_unet(
    network: FactorizedUNet, shape: tuple[int, int, int, int], mesh: Mapping[str, int]
) -> dict[str, int]:
    """All that a mesh which cuts D or H makes a device fetch whole, in a forward pass; the backward pass fetches as much again.

    Attention along depth gathers its keys and values over `depth`, that of the middle over `height`; linear attention
    only sums. Where a level is too small to stay cut in H, what comes down to it is gathered, and on the way up from it the
    gradient, so in the backward pass alone: half of that is listed.

    Args:
      network: with any options.
      shape: [B, D, H, W] of its input.
      mesh: axis sizes.

    Returns:
      Bytes a device by the name of the layer.
    """
    itemsize, levels = jnp.dtype(network.dtype).itemsize, len(network.channel_multipliers)
    shapes = [(*shape[:2], shape[2] >> level, shape[3] >> level) for level in range(levels)]
    specs = [volume_spec(level_shape, mesh) for level_shape in shapes]
    found = {}

    def attend(name: str, level: int, axis: str, head_channels: int) -> None:
        if axis in specs[level]:
            gathered = PartitionSpec(*(None if part == axis else part for part in specs[level]))
            width = network.attention_heads * head_channels
            found[name] = 2 * share((*shapes[level], width), gathered, mesh) * itemsize

    def along_depth(name: str, level: int) -> None:
        if network.depth_attention:
            attend(name, level, "depth", network.attention_head_channels)

    along_depth("input_depth_attention", 0)
    for level, multiplier in enumerate(network.channel_multipliers):
        along_depth(f"down_{level}_depth_attention", level)
        if level < levels - 1 and specs[level + 1] != specs[level]:
            width = multiplier * network.base_channels
            found[f"down_{level}_resample"] = share((*shapes[level + 1], width), specs[level + 1], mesh) * itemsize
    attend("middle_slice_attention", levels - 1, "height", SLICE_HEAD_CHANNELS)
    along_depth("middle_depth_attention", levels - 1)
    for level in reversed(range(levels)):
        along_depth(f"up_{level}_depth_attention", level)
        if level > 0 and specs[level] != specs[level - 1]:
            width = network.channel_multipliers[level - 1] * network.base_channels
            found[f"up_{level}_resample"] = share((*shapes[level - 1], width), specs[level], mesh) * itemsize // 2
    return found


def gathered_by_slices(shape: tuple[int, int, int, int], mesh: Mapping[str, int]) -> int:
    """Returns the bytes that a device gathers for its slices of volumes [B, D, H, W], float32: none unless the mesh cuts H."""
    spec = volume_spec(shape, mesh)
    rows = shape[0] // (mesh["data"] * mesh["fsdp"] if spec[0] else 1)
    return 4 * rows * shape[2] * shape[3] if spec[2] else 0


def share(shape: tuple[int, ...], spec: PartitionSpec, mesh: Mapping[str, int]) -> int:
    """How many elements of an array of this shape a device holds."""
    ways = math.prod(mesh[axis] for axes in spec if axes for axis in ([axes] if isinstance(axes, str) else axes))
    return math.prod(shape) // ways
