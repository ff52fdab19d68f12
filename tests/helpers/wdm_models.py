"""WDM's networks as a reference file's `config` describes them, in our terms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion.schedules import Schedule, cosine, linear, respace_to
from medjax.interop.wdm import params_from_state_dict, state_dict_from_params
from medjax.interop.wdm_names import state_dict_paths
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet
from spacing import spaced_timesteps


def network_of(config: dict[str, Any]) -> UNet | WaveletUNet:
    kwargs = config["kwargs"]
    multipliers = kwargs["channel_mult"]
    if isinstance(multipliers, str):
        multipliers = [int(multiplier) for multiplier in multipliers.split(",")]
    resolutions = [int(resolution) for resolution in kwargs["attention_resolutions"].split(",") if resolution]
    upsample_heads, head_channels = kwargs.get("num_heads_upsample", -1), kwargs.get("num_head_channels", -1)
    both = {
        "out_channels": kwargs["out_channels"] * (2 if kwargs.get("learn_sigma") else 1),
        "base_channels": kwargs["num_channels"],
        "channel_multipliers": tuple(multipliers),
        "blocks_per_level": kwargs["num_res_blocks"],
        "attention_factors": tuple(kwargs["image_size"] // resolution for resolution in resolutions),
        "middle_attention": kwargs["bottleneck_attention"],
        "attention_heads": kwargs["num_heads"],
        "up_attention_heads": upsample_heads if upsample_heads > 0 else None,
        "attention_head_channels": head_channels if head_channels > 0 else None,
        "qkv_order": "qkv_first" if kwargs["use_new_attention_order"] else "heads_first",
        "scale_shift_norm": kwargs["use_scale_shift_norm"],
        "dropout": kwargs["dropout"],
        "groups": kwargs["num_groups"],
    }
    if kwargs.get("use_freq", False):
        return WaveletUNet(**both)
    return UNet(
        **both,
        skip="add" if kwargs["additive_skips"] else "concat",
        resample_blocks=kwargs["resblock_updown"],
        keep_depth=kwargs["resample_2d"],
    )


def params_of(network: UNet | WaveletUNet, config: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[str, Any]:
    edge = 2 ** len(network.channel_multipliers)
    x_t = jax.ShapeDtypeStruct((1, edge, edge, edge, config["kwargs"]["in_channels"]), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x_t, jax.ShapeDtypeStruct((1,), jnp.float32))
    return params_from_state_dict(weights, shapes["params"])


def gradients_by_name(gradients: dict[str, Any]) -> dict[str, np.ndarray]:
    """As PyTorch names them: shared parameters by the first of their names."""
    first = {path: name for name, path in reversed(state_dict_paths(gradients).items())}
    return {name: array for name, array in state_dict_from_params(gradients).items() if name in first.values()}


def schedule_of(config: dict[str, Any]) -> Schedule:
    kwargs = config["kwargs"]
    schedule = {"linear": linear, "cosine": cosine}[kwargs["noise_schedule"]](kwargs["diffusion_steps"])
    if kwargs["timestep_respacing"]:
        schedule = respace_to(schedule, spaced_timesteps(schedule.steps, kwargs["timestep_respacing"]))
    return schedule


def network_time(config: dict[str, Any], t: jax.Array, steps: int | None = None) -> jax.Array:
    """What the network is told at the timesteps t of a schedule of `steps`."""
    steps = steps or config["kwargs"]["diffusion_steps"]
    return t * (1000.0 / steps) if config["kwargs"]["rescale_timesteps"] else t
