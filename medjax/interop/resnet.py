"""Converts state dicts of residual networks: MedicalNet's in 3D and those with torchvision's names in 2D."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import traverse_util

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
CHILDREN = {
    "0": "conv1",
    "1": "bn1",
    "4": "layer1",
    "5": "layer2",
    "6": "layer3",
    "7": "layer4",
}  # of torchvision's ResNet
KERAS_EPSILON = 1.001e-5  # of Keras's batch norms; ours have 1e-5
NAMED = 3  # names that do not fit, shown in a message
MOST_BLOCKS = 64  # of a stage; ResNet-200 has 36


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Holds what the tensors of a state dict say of its network.

    Attributes:
      axes: number of axes of space, 2 or 3.
      blocks: number of blocks of each stage.
      bottleneck: blocks have three convolutions, not two.
      projection: shortcuts that change the shape have a convolution.
      form: "torchvision" for its names, MedicalNet's too; "radimagenet" where they are those of a sequence of its parts;
        "keras" where, beside that, convolutions have biases and blocks stride first.
    """

    axes: int
    blocks: tuple[int, ...]
    bottleneck: bool
    projection: bool
    form: str

    @property
    def depth(self) -> int:
        """Counts layers as the name ResNet-50 does: convolutions on the way and one layer behind them."""
        return 2 + (3 if self.bottleneck else 2) * sum(self.blocks)

    @property
    def features(self) -> int:
        """Counts the channels of the last stage."""
        return 2048 if self.bottleneck else 512


def architecture_of(state_dict: Mapping[str, np.ndarray]) -> Architecture:
    """Recognises the network from arrays by name.

    Raises:
      ValueError: it is no residual network of four stages, or not of volumes of one channel or images of three; the message
        completes "FILE ...", as does that of `params_from_state_dict`.
    """
    form = "radimagenet" if any(name.startswith("backbone.") for name in state_dict) else "torchvision"
    names = with_torchvision_names(state_dict)
    first = np.shape(names.get("conv1.weight", ()))
    found = [re.match(r"layer(\d)\.(\d{1,9})\.", name) for name in names]
    blocks = tuple(1 + max((int(m[2]) for m in found if m and m[1] == str(stage)), default=-1) for stage in range(1, 5))
    if first[:2] != {5: (64, 1), 4: (64, 3)}.get(len(first)) or not all(0 < n <= MOST_BLOCKS for n in blocks):
        raise ValueError(
            "is neither a 3D ResNet of MedicalNet nor a 2D ResNet with torchvision's names: "
            f"its tensors are {', '.join(f'{name[:60]!r:.60}' for name in list(state_dict)[:NAMED])} ..."
        )
    bottleneck, projection = "layer1.0.conv3.weight" in names, "layer2.0.downsample.0.weight" in names
    if len(first) == 4 and not (bottleneck and projection):
        raise ValueError(f"is a 2D ResNet of blocks {blocks} of two convolutions: name a ResNet-50")
    if "conv1.bias" in state_dict:
        form = "keras"
    return Architecture(len(first) - 2, blocks, bottleneck, projection, form)


def with_torchvision_names(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames the same network as torchvision does, with convolutions' biases moved into the batch norms behind them."""
    named = {}
    for name, array in state_dict.items():
        child = re.match(r"backbone\.(\d)\.", name)
        known = child is not None and child[1] in CHILDREN
        named[f"{CHILDREN[child[1]]}.{name[child.end() :]}" if known else name] = array
    for name in [name for name in named if re.search(r"(conv\d|downsample\.0)\.bias$", name)]:
        norm = name.removesuffix(".bias").replace("downsample.0", "downsample.1").replace("conv", "bn")
        mean, var = named.get(f"{norm}.running_mean"), named.get(f"{norm}.running_var")
        # Of other shapes they would be spread over each other; who asks for them finds that they do not fit.
        if mean is not None and var is not None and np.shape(mean) == np.shape(var) == np.shape(named[name]):
            named[f"{norm}.running_mean"] = np.asarray(mean, np.float32) - np.asarray(named.pop(name), np.float32)
            named[f"{norm}.running_var"] = np.asarray(var, np.float32) + np.float32(KERAS_EPSILON - 1e-5)
    return named


def name_of(path: tuple[str, ...]) -> str:
    """Names a parameter as PyTorch does: ("layer1_0", "downsample_1", "var") is layer1.0.downsample.1.running_var."""
    return ".".join((*(part.replace("_", ".") for part in path[:-1]), LEAVES[path[-1]]))


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape there of a kernel [..., I, O] here: [O, I, ...]; a vector keeps its own."""
    return (shape[-1], shape[-2], *shape[:-2]) if len(shape) > 1 else shape


def params_from_state_dict(state_dict: Mapping[str, np.ndarray], like: Mapping[str, Any]) -> dict[str, Any]:
    """Returns our parameters with the state dict's numbers; heads and counters that features do not need are left out.

    Args:
      state_dict: arrays by name.
      like: the parameters of the network, for their names and shapes.

    Raises:
      ValueError: names are missing, of another shape, or hold numbers that are not finite.
    """
    params, problems = {}, {"lacks": [], "has in another shape": [], "has not finite": []}
    for path, leaf in traverse_util.flatten_dict(like).items():
        name = name_of(path)
        if name not in state_dict:
            problems["lacks"].append(name)
            continue
        if np.shape(state_dict[name]) != torch_shape(leaf.shape):
            found = f"{name} {np.shape(state_dict[name])} for {torch_shape(leaf.shape)}"
            problems["has in another shape"].append(found)
            continue
        array = np.asarray(state_dict[name], np.float32)
        if not math.isfinite(float(np.sum(array, dtype=np.float64))):
            problems["has not finite"].append(name)
        params[path] = np.moveaxis(array, (0, 1), (-1, -2)) if array.ndim > 1 else array
    for what, names in problems.items():
        if names:
            shown = ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
            raise ValueError(f"{what} {len(names)} of the network's tensors: {shown}")
    return traverse_util.unflatten_dict(params)
