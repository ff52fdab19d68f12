"""MedicalNet's state dict (Tencent/MedicalNet, 3D ResNet-50), as numpy arrays by name, to our parameters."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
PREFIX = "module."  # what training on several GPUs left before every name
NAMED = 3  # as many of the names that do not fit


def name_of(path: tuple[str, ...]) -> str:
    """A parameter's name there: ("layer1_0", "downsample_1", "var") is layer1.0.downsample.1.running_var."""
    return ".".join((*(part.replace("_", ".") for part in path[:-1]), LEAVES[path[-1]]))


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a kernel [D, H, W, I, O] there, [O, I, D, H, W]; a vector's own."""
    return (shape[4], shape[3], *shape[:3]) if len(shape) == 5 else shape


def params_from_state_dict(state_dict: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> dict[str, Any]:
    """Our parameters with the state dict's numbers; heads and counters that features do not need are left out.

    Args:
      state_dict: arrays by name, with or without the prefix "module.".
      like: the parameters of the network, for their names and shapes.

    Raises:
      ValueError: names are missing, or of another shape.
    """
    given = {name.removeprefix(PREFIX): array for name, array in state_dict.items()}
    params, missing, misshapen = {}, [], []
    for path, leaf in traverse_util.flatten_dict(like).items():
        name = name_of(path)
        if name not in given:
            missing.append(name)
        elif np.shape(given[name]) != torch_shape(leaf.shape):
            misshapen.append(f"{name} {np.shape(given[name])} for {torch_shape(leaf.shape)}")
        else:
            array = np.asarray(given[name], np.float32)
            params[path] = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
    for what, names in (("lacks", missing), ("has in another shape", misshapen)):
        if names:
            shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
            raise ValueError(f"not MedicalNet's ResNet-50: the state dict {what} {len(names)} of its tensors: {shown}")
    return traverse_util.unflatten_dict(params)
