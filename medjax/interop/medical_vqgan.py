"""Converts the state dict of Medical Diffusion's VQ-GAN (FirasGit/medicaldiffusion), numpy arrays by name, and back.

It holds the generator, the codebook, both discriminators with their running statistics, and VGG16, which we read from
elsewhere (`interop.perceptual`). PyTorch stores a convolution's kernel as [O, I, ...], a transposed one's as [I, O, ...].
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from medjax.interop.matching import require_match

Tree = Mapping[str, Any]
Path = tuple[str, ...]

FOREIGN = "perceptual_model."
COUNTER = "num_batches_tracked"  # of a batch norm, which nothing reads

_BLOCK = {"norm_1": "norm1", "conv_1": "conv1.conv", "norm_2": "norm2", "conv_2": "conv2.conv"}
_CODEBOOK = {"embeddings": "embeddings", "counts": "N", "sums": "z_avg"}


def to_params(
    state_dict: Mapping[str, np.ndarray], params: Tree, variables: Tree
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns our parameters and variables with the state dict's numbers, the codebook initialized.

    Args:
      state_dict: state dict of the whole model; what is VGG16's is left alone.
      params, variables: the task's, for their names and shapes (arrays or `jax.ShapeDtypeStruct`s).

    Returns:
      Trees like these, of float32 numpy arrays.

    Raises:
      ValueError: names are missing, unknown, of another shape or no floats.
    """
    flat = _flat(params, variables)
    paths = state_dict_paths(params, variables)
    given = {name: array for name, array in state_dict.items() if not name.startswith(FOREIGN) and COUNTER not in name}
    require_match(given, {name: _to_torch(name, _empty(flat[path].shape)).shape for name, path in paths.items()})
    arrays = {path: np.array(_from_torch(name, np.asarray(given[name])), np.float32) for name, path in paths.items()}
    arrays["variables", "codebook", "initialized"] = np.array(True)
    tree = traverse_util.unflatten_dict(arrays)
    return tree["params"], {"batch_stats": {}, **tree["variables"]}


def to_state_dict(params: Tree, variables: Tree) -> dict[str, np.ndarray]:
    """Returns the state dict that holds ours, float32, in the published order and layout, VGG16 left out."""
    flat, state_dict = _flat(params, variables), {}
    for name, path in state_dict_paths(params, variables).items():
        state_dict[name] = np.ascontiguousarray(_to_torch(name, np.asarray(flat[path], np.float32)))
        if path[-1] == "var":
            state_dict[f"{name.rpartition('.')[0]}.{COUNTER}"] = np.zeros((), np.int64)
    return state_dict


def state_dict_paths(params: Tree, variables: Tree) -> dict[str, Path]:
    """Maps each published name, in their order, to its array's path in {"params": params, "variables": variables}.

    Raises:
      ValueError: there are arrays of which the published model has no like.
    """
    if "codebook" not in variables:
        raise ValueError("the published VQ-GAN has a codebook, and this autoencoder none (model.bottleneck is 'kl')")
    flat, paths = _flat(params, variables), {}
    for (part, *module), name in _modules(params):
        side = "generator" if part in params["generator"] else "discriminator"
        for leaf in ("kernel", "scale", "bias"):
            if (path := ("params", side, part, *module, leaf)) in flat:
                paths[f"{name}.{'bias' if leaf == 'bias' else 'weight'}"] = path
        for leaf in ("mean", "var"):
            if (path := ("variables", "batch_stats", part, *module, leaf)) in flat:
                paths[f"{name}.running_{leaf}"] = path
        if name == "post_vq_conv.conv":
            codebook = {f"codebook.{theirs}": ("variables", "codebook", ours) for ours, theirs in _CODEBOOK.items()}
            paths |= codebook
    if strangers := flat.keys() - {*paths.values(), ("variables", "codebook", "initialized")}:
        raise ValueError(f"the published VQ-GAN has no {'/'.join(min(strangers))}")
    return paths


def _modules(params: Tree) -> Iterator[tuple[Path, str]]:
    """Yields the modules that hold arrays, by our path and the published name, in the published order."""
    levels = sum(re.fullmatch(r"down_\d+_conv", module) is not None for module in params["generator"]["encoder"])
    for level in range(levels):
        yield ("encoder", f"down_{level}_conv"), f"encoder.conv_blocks.{level}.down.conv"
        for ours, theirs in _BLOCK.items():
            yield ("encoder", f"down_{level}_block", ours), f"encoder.conv_blocks.{level}.res.{theirs}"
    yield ("encoder", "input_conv"), "encoder.conv_first.conv"
    yield ("encoder", "head_norm"), "encoder.final_block.0"
    yield ("decoder", "input_norm"), "decoder.final_block.0"
    for level in range(levels):
        yield ("decoder", f"up_{level}_conv"), f"decoder.conv_blocks.{level}.up.convt"
        for i in range(2):
            for ours, theirs in _BLOCK.items():
                yield ("decoder", f"up_{level}_block_{i}", ours), f"decoder.conv_blocks.{level}.res{i + 1}.{theirs}"
    yield ("decoder", "output_conv"), "decoder.conv_last.conv"
    yield ("encoder", "latent_conv"), "pre_vq_conv.conv"
    yield ("decoder", "latent_conv"), "post_vq_conv.conv"
    for ours, theirs in (("image", "image_discriminator"), ("volume", "video_discriminator")):
        layers = sum(module.startswith("conv_") for module in params["discriminator"][ours])
        for layer in range(layers):
            yield (ours, f"conv_{layer}"), f"{theirs}.model{layer}.0"
            if f"norm_{layer}" in params["discriminator"][ours]:
                yield (ours, f"norm_{layer}"), f"{theirs}.model{layer}.1"


def _flat(params: Tree, variables: Tree) -> dict[Path, Any]:
    return traverse_util.flatten_dict({"params": params, "variables": variables})


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.float32(0), shape)


def _to_torch(name: str, array: np.ndarray) -> np.ndarray:
    """Transposes [..., I, O] to [O, I, ...] or, transposed, [I, O, ...]."""
    if array.ndim < 4:
        return array
    channels = (-2, -1) if name.endswith("convt.weight") else (-1, -2)
    return np.moveaxis(array, channels, (0, 1))


def _from_torch(name: str, array: np.ndarray) -> np.ndarray:
    if array.ndim < 4:
        return array
    channels = (-2, -1) if name.endswith("convt.weight") else (-1, -2)
    return np.moveaxis(array, (0, 1), channels)
