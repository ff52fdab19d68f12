"""Maps the parameters of WDM's two networks (pfriedri/wdm-3d) to the names of their state dicts.

Both implementations hold the same tensors in different places. Ours say where: `down_1_block_0` and the like are walked
in the order of the computation, which is the order of the published models' numbered `input_blocks` and `output_blocks`.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flax import traverse_util

Params = Mapping[str, Any]
ParamPath = tuple[str, ...]
Module = tuple[ParamPath, str]  # of ours that holds arrays itself, and the published name

_BLOCK = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "time_projection": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",
    "skip_conv": "skip_connection",
}
_ATTENTION = {"norm": "norm", "qkv": "qkv", "output": "proj_out"}
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def state_dict_paths(params: Params) -> dict[str, ParamPath]:
    """Maps every name of the published state dict, in its order, to our parameter; shared ones have two names.

    Args:
      params: parameters of a U-Net or a wavelet U-Net (arrays or shapes).

    Raises:
      ValueError: there are parameters of which the published model has no like.
    """
    flat = traverse_util.flatten_dict(params)
    paths = {}
    for module, name in _modules(params):
        leaves = [path for path in flat if path[:-1] == module]
        for path in sorted(leaves, key=lambda path: path[-1] == "bias"):
            paths[f"{name}.{_LEAVES[path[-1]]}"] = path
    if strangers := flat.keys() - set(paths.values()):
        raise ValueError(f"the published networks have no {'/'.join(min(strangers))}")
    return paths


def _modules(params: Params) -> Iterator[Module]:
    """Yields the modules of a network that hold arrays, in the published order."""
    yield ("time_embedding", "hidden"), "time_embed.0"
    yield ("time_embedding", "output"), "time_embed.2"
    yield ("input_conv",), "input_blocks.0.0"
    down, up = _wavelet_stages(params) if "down_0_pyramid" in params else _stages(params)
    for number, stage in enumerate(down, start=1):
        yield from _sequence(params, stage, f"input_blocks.{number}")
    middle = [name for name in ("middle_block_0", "middle_attention", "middle_block_1") if name in params]
    yield from _sequence(params, middle, "middle_block")
    for number, stage in enumerate(up):
        yield from _sequence(params, stage, f"output_blocks.{number}")
    for i in range(_count(params, "head_block_")):
        yield from _sequence(params, [f"head_block_{i}"], f"out_res.{i}")
    yield ("head_norm",), "out.0"
    yield ("head_conv",), "out.2"


def _stages(params: Params) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the numbered stages of the U-Net, on the way down and on the way up, each a sequence of our modules."""
    down, up = [], []
    for level in range(_levels(params)):
        down += _plain_stages(params, f"down_{level}")
        if f"down_{level}_resample" in params:
            down.append([f"down_{level}_resample"])
    for level in reversed(range(_levels(params))):
        up += _plain_stages(params, f"up_{level}")
        if f"up_{level}_resample" in params:  # going up it shares the number of the level's last block
            up[-1].append(f"up_{level}_resample")
    return down, up


def _wavelet_stages(params: Params) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the stages of the wavelet U-Net: the last of a level comes again on the way up, with the block that resamples."""
    down, up = [], []
    for level in range(_levels(params)):
        down += [*_plain_stages(params, f"down_{level}"), [f"down_{level}_resample"], [f"down_{level}_pyramid"]]
    for level in reversed(range(_levels(params))):
        stages = _plain_stages(params, f"up_{level}")
        up += [*stages, [*stages[-1], f"up_{level}_resample"]]
    return down, up


def _plain_stages(params: Params, level: str) -> list[list[str]]:
    """Yields a level's blocks, each with its attention if it has one."""
    pairs = [(f"{level}_block_{i}", f"{level}_attention_{i}") for i in range(_count(params, f"{level}_block_"))]
    return [[module for module in pair if module in params] for pair in pairs]


def _sequence(params: Params, stage: list[str], prefix: str) -> Iterator[Module]:
    for i, module in enumerate(stage):
        if "kernel" not in params[module]:
            table = _ATTENTION if "qkv" in params[module] else _BLOCK
            for ours, theirs in table.items():
                if ours in params[module]:
                    yield (module, ours), f"{prefix}.{i}.{theirs}"
        else:  # a convolution, of the pyramid or one that resamples
            role = "op" if re.fullmatch(r"down_\d+_resample", module) else "conv"
            yield (module,), f"{prefix}.{i}.{role}"


def _levels(params: Params) -> int:
    return sum(re.fullmatch(r"down_\d+_block_0", module) is not None for module in params)


def _count(params: Params, prefix: str) -> int:
    return sum(module.startswith(prefix) for module in params)
