"""Converts the state dict of WDM's networks (pfriedri/wdm-3d), as numpy arrays by name, to our parameters and back.

PyTorch stores a convolution's kernel as [O, I, D, H, W] and a linear layer's as [O, I].
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from medjax.interop.matching import require_match, require_none
from medjax.interop.wdm_names import ParamPath, Params, state_dict_paths


def params_from_state_dict(state_dict: Mapping[str, np.ndarray], like: Params) -> dict[str, Any]:
    """Returns our parameters with the state dict's numbers.

    Args:
      state_dict: float arrays by their PyTorch names; those narrower than float32 become it exactly.
      like: the parameters of the network, for their names and shapes (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      The tree of `like`, of float32 numpy arrays.

    Raises:
      ValueError: names are missing, unknown, of another shape or no floats, or a parameter that the network uses twice
        differs between its two names; all of a kind are counted, the first few named.
    """
    shapes = {path: tuple(leaf.shape) for path, leaf in traverse_util.flatten_dict(like).items()}
    paths = state_dict_paths(like)
    state_dict = _with_second_names(state_dict, paths)
    require_match(state_dict, {name: _torch_shape(path, shapes[path]) for name, path in paths.items()})
    arrays: dict[ParamPath, np.ndarray] = {}
    differing = []
    for name, path in paths.items():
        array = _from_torch(np.asarray(state_dict[name]), shapes[path])
        if not np.array_equal(arrays.setdefault(path, array), array, equal_nan=True):
            differing.append(name)
    require_none({"has second names that differ from the first, which this network shares": differing})
    return traverse_util.unflatten_dict(arrays)


def state_dict_from_params(params: Params) -> dict[str, np.ndarray]:
    """Returns the state dict that holds our parameters, float32, in the published model's order and layout.

    The two names of a shared parameter hold one array.

    Raises:
      ValueError: there are parameters of which the published model has no like.
    """
    arrays = {path: _to_torch(path, leaf) for path, leaf in traverse_util.flatten_dict(params).items()}
    return {name: arrays[path] for name, path in state_dict_paths(params).items()}


def _with_second_names(state_dict: Mapping[str, np.ndarray], paths: Mapping[str, ParamPath]) -> dict[str, np.ndarray]:
    """Adds the names of shared parameters that safetensors leaves out: it saves each tensor once, under any of its names."""
    there = {paths[name]: array for name, array in state_dict.items() if name in paths}
    return {name: there[path] for name, path in paths.items() if path in there} | dict(state_dict)


def _torch_shape(path: ParamPath, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) == 5:
        return (shape[4], shape[3], *shape[:3])
    # Attention's linear layers are 1D convolutions of width 1 there.
    return (*shape[::-1], 1) if len(shape) == 2 and "attention" in path[0] else shape[::-1]


def _from_torch(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the array in our layout, of our shape."""
    array = array.transpose(2, 3, 4, 1, 0) if len(shape) == 5 else array.T.reshape(shape)
    return np.array(array, np.float32, order="C")


def _to_torch(path: ParamPath, leaf: Any) -> np.ndarray:
    array = np.asarray(leaf, np.float32)
    shape = _torch_shape(path, array.shape)
    return np.ascontiguousarray(array.transpose(4, 3, 0, 1, 2) if array.ndim == 5 else array.T.reshape(shape))
