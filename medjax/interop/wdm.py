"""The state dict of WDM's U-Net (pfriedri/wdm-3d), as numpy arrays by name, to our parameters and back.

Both networks hold the same tensors in different places. Ours say where: `down_1_block_0` and the like are walked in the
order of the computation, which is the order of the published model's numbered `input_blocks` and `output_blocks`.
PyTorch stores a convolution's kernel as [O, I, D, H, W] and a linear layer's as [O, I].
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

Params = Mapping[str, Any]
ParamPath = tuple[str, ...]

_BLOCK = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "time_projection": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip_conv": "skip_connection",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "output": "proj_out"}
_TOP = {"head_norm": "out.0", "head_conv": "out.2", "input_conv": "input_blocks.0.0"}
_TIME = {"hidden": "time_embed.0", "output": "time_embed.2"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def params_from_state_dict(state_dict: Mapping[str, np.ndarray], like: Params) -> dict[str, Any]:
    """Our parameters with the state dict's numbers.

    Args:
      state_dict: float arrays by their PyTorch names.
      like: the parameters of the U-Net, for their names and shapes (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      The tree of `like`, of float32 numpy arrays.

    Raises:
      ValueError: a name is missing, unknown, or of another shape; all of a kind are counted, the first is named.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(like).items()}
    names = state_dict_names(like)
    _require(not (missing := sorted(set(names.values()) - set(state_dict))), "lacks", missing)
    _require(not (unknown := sorted(set(state_dict) - set(names.values()))), "has, and this U-Net has not,", unknown)
    arrays = {path: _from_torch(np.asarray(state_dict[name]), shapes[path]) for path, name in names.items()}
    misshapen = [
        f"{names[path]} of shape {np.shape(state_dict[names[path]])} for {'/'.join(path)} {shapes[path]}"
        for path, array in arrays.items()
        if array is None
    ]
    _require(not misshapen, "has, but not as this U-Net needs it,", misshapen)
    return traverse_util.unflatten_dict(arrays)


def state_dict_from_params(params: Params) -> dict[str, np.ndarray]:
    """The state dict that holds our parameters, float32, in the published model's order and layout."""
    flat = traverse_util.flatten_dict(params)
    names = state_dict_names(params)
    return {name: _to_torch(np.asarray(flat[path], np.float32), path) for path, name in names.items()}


def state_dict_names(params: Params) -> dict[ParamPath, str]:
    """The PyTorch name of each of our parameters, in the published model's order."""
    modules = _module_names(params)
    paths = traverse_util.flatten_dict(params)
    names = {path: f"{modules[path[:-1]]}.{_LEAVES[path[-1]]}" for path in paths}
    in_order = {module: i for i, module in enumerate(modules)}
    return dict(sorted(names.items(), key=lambda item: (in_order[item[0][:-1]], item[0][-1] == "bias")))


def _module_names(params: Params) -> dict[ParamPath, str]:
    """The PyTorch name of each of our innermost modules, in the published model's order."""
    names = {("time_embedding", ours): theirs for ours, theirs in _TIME.items()}
    names[("input_conv",)] = _TOP["input_conv"]

    def add(module: str, prefix: str) -> None:
        if "kernel" in params[module]:  # a resampling convolution
            names[(module,)] = f"{prefix}.{'op' if module.startswith('down') else 'conv'}"
        else:
            table = _ATTENTION if "qkv" in params[module] else _BLOCK
            present = {ours: theirs for ours, theirs in table.items() if ours in params[module]}
            names.update({(module, ours): f"{prefix}.{theirs}" for ours, theirs in present.items()})

    levels = 1 + max(int(match[1]) for module in params if (match := re.fullmatch(r"down_(\d+)_block_0", module)))
    number = 1
    for level in range(levels):
        for stage in _stages(params, f"down_{level}"):
            for i, module in enumerate(stage):
                add(module, f"input_blocks.{number}.{i}")
            number += 1
    for i, module in enumerate(m for m in ("middle_block_0", "middle_attention", "middle_block_1") if m in params):
        add(module, f"middle_block.{i}")
    number = 0
    for level in reversed(range(levels)):
        stages = _stages(params, f"up_{level}")
        if f"up_{level}_resample" in params:  # going up it shares the number of the level's last block
            stages[-2:] = [stages[-2] + stages[-1]]
        for stage in stages:
            for i, module in enumerate(stage):
                add(module, f"output_blocks.{number}.{i}")
            number += 1
    names[("head_norm",)], names[("head_conv",)] = _TOP["head_norm"], _TOP["head_conv"]
    return names


def _stages(params: Params, level: str) -> list[list[str]]:
    """A level's modules: each block with its attention, then the resampling."""
    count = sum(module.startswith(f"{level}_block_") for module in params)
    stages = [[f"{level}_block_{i}", f"{level}_attention_{i}"] for i in range(count)] + [[f"{level}_resample"]]
    stages = [[module for module in stage if module in params] for stage in stages]
    return [stage for stage in stages if stage]


def _from_torch(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in our layout, or None if it has not the shape."""
    if len(shape) == 2:
        array = array.reshape(array.shape[:2]) if array.ndim >= 2 and set(array.shape[2:]) <= {1} else array
        array = array.T
    elif len(shape) == 5 and array.ndim == 5:
        array = array.transpose(2, 3, 4, 1, 0)
    return np.array(array, np.float32, order="C") if array.shape == shape else None


def _to_torch(array: np.ndarray, path: ParamPath) -> np.ndarray:
    if array.ndim == 5:
        array = array.transpose(4, 3, 0, 1, 2)
    elif array.ndim == 2:
        array = array.T
        if "attention" in path[0]:
            array = array[..., None]  # a 1D convolution of width 1 there
    return np.ascontiguousarray(array)


def _require(condition: bool, what: str, names: list[str]) -> None:
    if not condition:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise ValueError(f"the state dict {what} {names[0]}{more}: is it of this architecture?")
