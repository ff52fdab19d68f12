"""Converts the state dict of Medical Diffusion's U-Net (FirasGit/medicaldiffusion), numpy arrays by name, and back.

PyTorch stores a convolution's kernel as [O, I, D, H, W], a transposed one's as [I, O, D, H, W] and a linear layer's as
[O, I]. The linear layers of linear attention are 2D convolutions of width 1 there.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from medjax.interop.matching import require_match

Params = Mapping[str, Any]
ParamPath = tuple[str, ...]

PREFIX = "denoise_fn."  # of the network in a milestone, beside the schedule's tables and `vqgan.`
ROTATION = ".fn.fn.fn.rotary_emb.freqs"  # constants that every attention along depth carries

_BLOCK = {
    "time_projection": "mlp.1",
    "conv_1": "block1.proj",
    "norm_1": "block1.norm",
    "conv_2": "block2.proj",
    "norm_2": "block2.norm",
    "skip_conv": "res_conv",
}
_LINEAR_ATTENTION = {"qkv": "fn.fn.to_qkv", "output": "fn.fn.to_out", "norm": "fn.norm"}
_ATTENTION = {"qkv": "fn.fn.fn.to_qkv", "output": "fn.fn.fn.to_out", "norm": "fn.norm"}


def network_of_milestone(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Picks the U-Net's part of a milestone's "model" or "ema", by its own names."""
    return {name.removeprefix(PREFIX): array for name, array in state_dict.items() if name.startswith(PREFIX)}


def to_params(state_dict: Mapping[str, np.ndarray], like: Params) -> dict[str, Any]:
    """Returns our parameters with the state dict's numbers.

    Args:
      state_dict: state dict of the U-Net alone; floats narrower than float32 become it exactly.
      like: the parameters of the network, for their names and shapes (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      The tree of `like`, of float32 numpy arrays.

    Raises:
      ValueError: names are missing, unknown, of another shape or no floats, or the rotation of attention along depth is
        not the published one.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(like).items()}
    paths, rotation = state_dict_paths(like), _rotation(like)
    expected = {name: _torch_shape(name, shapes[path]) if path else rotation.shape for name, path in paths.items()}
    require_match(state_dict, expected)
    arrays = {}
    for name, path in paths.items():
        if path:
            arrays[path] = _from_torch(name, np.asarray(state_dict[name]), shapes[path])
        elif not np.allclose(state_dict[name], rotation, rtol=1e-5):
            raise ValueError(f"the state dict's {name} are not 10000^(-2i / width), by which this network rotates")
    return traverse_util.unflatten_dict(arrays)


def to_state_dict(params: Params) -> dict[str, np.ndarray]:
    """Returns the state dict of the U-Net that holds our parameters, float32, in the published layout and order.

    Raises:
      ValueError: the published network has no like of it: it is told labels, or has no attention along depth.
    """
    flat, paths = traverse_util.flatten_dict(params), state_dict_paths(params)
    return {
        name: _to_torch(name, np.asarray(flat[path], np.float32)) if path else _rotation(params)
        for name, path in paths.items()
    }


def state_dict_paths(params: Params) -> dict[str, ParamPath | None]:
    """Maps every name of the published state dict, in its order, to our parameter; to None for constants of the rotation.

    Raises:
      ValueError: there are parameters of which the published network has no like, or it has some that are missing.
    """
    if "depth_bias" not in params:
        raise ValueError("the published network has attention along depth: this one has none")
    flat = traverse_util.flatten_dict(params)
    paths: dict[str, ParamPath | None] = {"time_rel_pos_bias.relative_attention_bias.weight": ("depth_bias", "table")}
    for module, name in _modules(params):
        if name.endswith(ROTATION):
            paths[name] = None
            continue
        for leaf, published in (("kernel", "weight"), ("scale", "weight"), ("bias", "bias")):
            if (*module, leaf) in flat:
                gamma = module[-1] == "norm"  # of attention, a norm over channels with no bias
                paths[f"{name}.{'gamma' if gamma else published}"] = (*module, leaf)
    if strangers := flat.keys() - set(paths.values()):
        raise ValueError(f"the published network has no {'/'.join(min(strangers))}")
    return paths


def _modules(params: Params) -> Iterator[tuple[ParamPath, str]]:
    """Yields the modules that hold arrays, and the rotations, by our path and the published name, in the published order."""
    levels = sum(re.fullmatch(r"down_\d+_block_0", module) is not None for module in params)
    yield ("input_conv",), "init_conv"
    yield from _parts(params, "input_depth_attention", "init_temporal_attn")
    yield ("time_embedding", "hidden"), "time_mlp.1"
    yield ("time_embedding", "output"), "time_mlp.3"
    for way, name, order in (("down", "downs", range(levels)), ("up", "ups", reversed(range(levels)))):
        for number, level in enumerate(order):
            stages = ("block_0", "block_1", "slice_attention", "depth_attention", "resample")
            for place, stage in enumerate(stages):
                yield from _parts(params, f"{way}_{level}_{stage}", f"{name}.{number}.{place}")
    yield from _parts(params, "middle_block_0", "mid_block1")
    yield from _parts(params, "middle_slice_attention", "mid_spatial_attn")
    yield from _parts(params, "middle_depth_attention", "mid_temporal_attn")
    yield from _parts(params, "middle_block_1", "mid_block2")
    yield from _parts(params, "head_block", "final_conv.0")
    yield ("head_conv",), "final_conv.1"


def _parts(params: Params, module: str, name: str) -> Iterator[tuple[ParamPath, str]]:
    """Yields the parts of a block, an attention or a convolution, if the network has it."""
    if module not in params:
        return
    if module.endswith("resample"):
        yield (module,), name
        return
    is_block, is_linear = "qkv" not in params[module], re.match(r"(down|up)_\d+_slice", module)
    if module.endswith("depth_attention"):
        yield (module,), name + ROTATION
    for ours, theirs in (_BLOCK if is_block else _LINEAR_ATTENTION if is_linear else _ATTENTION).items():
        if ours in params[module]:
            yield (module, ours), f"{name}.{theirs}"


def _rotation(params: Params) -> np.ndarray:
    """Returns the angles by which attention along depth rotates (layers/rotary), which the published model stores with each."""
    heads = params["depth_bias"]["table"].shape[1]
    width = np.float32(min(32, params["input_depth_attention"]["qkv"]["kernel"].shape[1] // 3 // heads))
    return np.float32(1) / np.float32(10_000) ** (np.arange(0, width, 2, dtype=np.float32) / width)


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return _to_torch(name, np.broadcast_to(np.float32(0), shape)).shape


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 5:
        array = array.transpose(3, 4, 0, 1, 2) if _is_transposed(name) else array.transpose(4, 3, 0, 1, 2)
    elif name.endswith("gamma"):
        array = array.reshape(1, -1, 1, 1, 1)
    elif array.ndim == 2 and "relative_attention_bias" not in name:
        array = array.T[:, :, None, None] if _is_2d(name) else array.T
    return np.ascontiguousarray(array)


def _from_torch(name: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array in our layout, of our shape."""
    if array.ndim == 5 and len(shape) == 5:
        array = array.transpose(2, 3, 4, 0, 1) if _is_transposed(name) else array.transpose(2, 3, 4, 1, 0)
    elif "relative_attention_bias" not in name and not name.endswith("gamma"):
        array = array.T
    return np.array(array.reshape(shape), np.float32, order="C")


def _is_transposed(name: str) -> bool:
    return re.fullmatch(r"ups\.\d+\.4\.weight", name) is not None


def _is_2d(name: str) -> bool:
    return re.fullmatch(r"(downs|ups)\.\d+\.2\..*", name) is not None
