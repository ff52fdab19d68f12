"""The network that a configuration's `model` and `train` keys describe."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.layers.attention import QKV_ORDERS
from medjax.layers.conv import LOWERINGS, default_lowering
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet

# What the wavelet U-Net does in its own way, and so the only value that each key may have beside it.
OF_THE_UNET_ALONE = {"skip": "add", "resample_blocks": True, "keep_depth": False, "position_channels": 0}


def make_network(config: ConfigDict, out_channels: int) -> UNet | WaveletUNet:
    """The network, for wavelet coefficients of volumes of `data.size`.

    Raises:
      UserError: naming the key that cannot work.
    """
    model, train = config.model, config.train
    lowering = train.lowering or default_lowering(jax.default_backend())
    for key, value, choices in (
        ("model.network", model.network, ("unet", "wavelet_unet")),
        ("model.skip", model.skip, ("add", "concat")),
        ("model.qkv_order", model.qkv_order, QKV_ORDERS),
        ("train.dtype", train.dtype, ("float32", "bfloat16")),
        ("train.lowering", lowering, LOWERINGS),
    ):
        if value not in choices:
            raise UserError(f"{key} is {value!r}: use {' or '.join(map(repr, choices))}")
    widths = [model.base_channels * multiplier for multiplier in model.channel_multipliers]
    if any(width % model.groups for width in [model.base_channels, *widths]):
        raise UserError(f"model.groups is {model.groups}: it must divide every width, {model.base_channels}, {widths}")
    # The last block of a level of the wavelet U-Net is applied twice, so it cannot be the one that changes the width.
    least_blocks = 2 if model.network == "wavelet_unet" and len(set(model.channel_multipliers)) > 1 else 1
    if model.blocks_per_level < least_blocks:
        raise UserError(
            f"model.blocks_per_level is {model.blocks_per_level}: {model.network} needs {least_blocks} or more"
        )

    edge, resolutions = max(config.data.size) // 2, len(model.channel_multipliers) + (model.network == "wavelet_unet")
    both = {
        "out_channels": out_channels,
        "base_channels": model.base_channels,
        "channel_multipliers": tuple(model.channel_multipliers),
        "blocks_per_level": model.blocks_per_level,
        "attention_factors": tuple(model.attention_factors),
        "middle_attention": model.middle_attention,
        "attention_heads": model.attention_heads,
        "up_attention_heads": model.up_attention_heads,
        "attention_head_channels": model.attention_head_channels,
        "qkv_order": model.qkv_order,
        "scale_shift_norm": model.scale_shift_norm,
        "dropout": model.dropout,
        "groups": model.groups,
        "dtype": jnp.dtype(train.dtype),
        "remat": remat_resolutions(train.remat, edge, resolutions),
        "lowering": lowering,
    }
    own = {key: model[key] for key in OF_THE_UNET_ALONE}
    if model.network == "unet":
        return UNet(**both, **own)
    for key, value in OF_THE_UNET_ALONE.items():
        if own[key] != value:
            raise UserError(f"model.{key} is {own[key]!r}: the wavelet U-Net has no such choice; leave it at {value!r}")
    return WaveletUNet(**both)


def remat_resolutions(remat: str, edge: int, resolutions: int) -> tuple[bool, ...]:
    """Where a network recomputes its activations, by `train.remat`: none, (all) blocks, or above:EDGE.

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
        raise UserError(f"train.remat is {remat!r}: use 'none', 'blocks' or 'above:EDGE', such as 'above:16'")
    return tuple(edge // 2**i > int(limit) for i in range(resolutions))
