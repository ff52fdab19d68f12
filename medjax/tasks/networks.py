"""The network that a configuration's `model` and `train` keys describe."""

from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.layers.attention import QKV_ORDERS
from medjax.layers.conditions import Condition
from medjax.models.factorized_unet import FactorizedUNet
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet
from medjax.tasks.checks import check_choices
from medjax.tasks.lowering_choice import one_lowering, ways_by_level

Network = UNet | WaveletUNet | FactorizedUNet

# Options that only UNet has; with the wavelet U-Net each must keep this value.
UNET_ONLY_DEFAULTS = {"skip": "add", "resample_blocks": True, "keep_depth": False, "position_channels": 0}


def make_network(
    config: ConfigDict, out_channels: int, size: tuple[int, int, int], conditions: tuple[Condition, ...] = ()
) -> Network:
    """Makes the network, for what a task denoises: arrays of `size` (D, H, W), told the conditions.

    Raises:
      UserError: naming the key that cannot work.
    """
    model, train = config.model, config.train
    check_choices(
        ("model.network", model.network, ("unet", "wavelet_unet", "factorized_unet")),
        ("train.dtype", train.dtype, ("float32", "bfloat16")),
    )
    widths = [model.base_channels * multiplier for multiplier in model.channel_multipliers]
    if any(width % model.groups for width in [model.base_channels, *widths]):
        raise UserError(f"model.groups is {model.groups}: it must divide every width, {model.base_channels}, {widths}")
    every = {
        "out_channels": out_channels,
        "base_channels": model.base_channels,
        "channel_multipliers": tuple(model.channel_multipliers),
        "groups": model.groups,
        "conditions": conditions,
        "dtype": jnp.dtype(train.dtype),
    }
    if model.network == "factorized_unet":
        return _factorized(model, every | {"lowering": one_lowering(train)}, train.remat, size)
    if model.network == "wavelet_unet":
        return _wdm(model, every | {"lowering": one_lowering(train)}, train.remat, size)
    ways = ways_by_level(train, widths, size, model.get("keep_depth", False))
    ways = {"lowering": tuple(way.lowering for way in ways), "fold": tuple(way.fold for way in ways)}
    return _wdm(model, every | ways, train.remat, size)


def _factorized(model: ConfigDict, every: dict[str, Any], remat: str, size: tuple[int, int, int]) -> FactorizedUNet:
    """Medical Diffusion's network."""
    check_choices(("model.spatial_attention", model.spatial_attention, ("linear", "none")))
    if model.base_channels % 2 or model.base_channels < 4:
        raise UserError(
            f"model.base_channels is {model.base_channels}: the time's sinusoids need an even number, 4 or more"
        )
    if model.first_kernel % 2 == 0:
        raise UserError(f"model.first_kernel is {model.first_kernel}: use an odd edge, such as 7")
    if model.depth_attention and model.attention_head_channels % 2:
        heads = f"model.attention_head_channels is {model.attention_head_channels}"
        raise UserError(f"{heads}: attention along depth rotates pairs of them, use an even number")
    return FactorizedUNet(
        **every,
        attention_heads=model.attention_heads,
        attention_head_channels=model.attention_head_channels,
        first_kernel=model.first_kernel,
        spatial_attention=model.spatial_attention,
        depth_attention=model.depth_attention,
        remat=remat_resolutions(remat, max(size[1:]), len(model.channel_multipliers)),
    )


def _wdm(model: ConfigDict, every: dict[str, Any], remat: str, size: tuple[int, int, int]) -> UNet | WaveletUNet:
    """WDM's networks."""
    check_choices(
        ("model.skip", model.skip, ("add", "concat")),
        ("model.qkv_order", model.qkv_order, QKV_ORDERS),
    )
    # The last block of a level of the wavelet U-Net is applied twice, so it cannot be the one that changes the width.
    least_blocks = 2 if model.network == "wavelet_unet" and len(set(model.channel_multipliers)) > 1 else 1
    if model.blocks_per_level < least_blocks:
        raise UserError(
            f"model.blocks_per_level is {model.blocks_per_level}: {model.network} needs {least_blocks} or more"
        )
    resolutions = len(model.channel_multipliers) + (model.network == "wavelet_unet")
    both = every | {
        "blocks_per_level": model.blocks_per_level,
        "attention_factors": tuple(model.attention_factors),
        "middle_attention": model.middle_attention,
        "attention_heads": model.attention_heads,
        "up_attention_heads": model.up_attention_heads,
        "attention_head_channels": model.attention_head_channels,
        "qkv_order": model.qkv_order,
        "scale_shift_norm": model.scale_shift_norm,
        "dropout": model.dropout,
        "remat": remat_resolutions(remat, max(size), resolutions),
    }
    own = {key: model.get(key, value) for key, value in UNET_ONLY_DEFAULTS.items()}
    if model.network == "unet":
        return UNet(**both, **own)
    for key, value in UNET_ONLY_DEFAULTS.items():
        if own[key] != value:
            raise UserError(f"model.{key} is {own[key]!r}: the wavelet U-Net has no such choice; leave it at {value!r}")
    return WaveletUNet(**both)


def remat_resolutions(remat: str, edge: int, resolutions: int) -> tuple[bool, ...]:
    """Reads where a network recomputes its activations from `train.remat`: none, (all) blocks, or above:EDGE.

    Args:
      remat: the policy; "above:16" is where the longest edge has more than 16 voxels.
      edge: the longest of the network's input.
      resolutions: of the network, each half the one before.

    Raises:
      UserError: it is none of these.
    """
    policy, _, limit = remat.partition(":")
    if remat in ("none", "blocks"):
        return (remat == "blocks",) * resolutions
    if policy != "above" or not limit.isdecimal():
        raise UserError(
            f"train.remat is {remat!r}: use 'none', 'blocks', 'above:EDGE' such as 'above:16', or to train 'auto'"
        )
    return tuple(edge // 2**i > int(limit) for i in range(resolutions))
