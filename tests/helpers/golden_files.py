"""Reference numbers: .npz files measured on the published PyTorch implementations.

A file's kind is the longest known name that its own name begins with. A test asks for one kind, and optionally for
groups of keys, and then runs once for every file of `--golden=DIR` that holds them:

    @pytest.mark.golden("wdm_loss", "out/adamw_losses")
    def test_adamw_steps(golden): ...

Keys are `in/...`, `out/...`, `act/...` (NCDHW, see `channels_last`), `w/...`, and `config`, which is JSON.
"""

import functools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

KNOWN_KINDS = (
    "haar",
    "timestep_embedding",
    "diffusion_tables",
    "wdm_unet",
    "wdm_wavunet",
    "wdm_loss",
    "wdm_sample",
    "wdm_preprocessing",
    "wdm_eval",
    "medical_unet3d",
    "medical_vqgan",
    "medical_lpips",
)


class GoldenFile:
    """One .npz file, read key by key."""

    def __init__(self, path: Path):
        self.path = path
        self._npz = np.load(path, allow_pickle=False)

    def __getitem__(self, key: str) -> np.ndarray:
        return self._npz[key]

    def __contains__(self, key: str) -> bool:
        return key in self._npz.files

    def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._npz.files if key.startswith(prefix)]

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        return json.loads(str(self["config"]))

    @functools.cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """The whole state dict: tensors stored in the file, tensors made by recipe, and aliases of either."""
        weights = {key.removeprefix("w/"): self[key] for key in self.keys("w/")}
        recipe = json.loads(str(self["w_recipe"])) if "w_recipe" in self else []
        seed, gain = self.config.get("seed", 0), self.config.get("gain", 1.0)
        weights |= {name: recipe_weight(name, shape, seed, gain) for name, shape in recipe}
        aliases = json.loads(str(self["w_alias"])) if "w_alias" in self else {}
        return weights | {name: weights[owner] for name, owner in dict(aliases).items()}


def kind_of(path: Path) -> str | None:
    return max((kind for kind in KNOWN_KINDS if path.stem.startswith(kind)), key=len, default=None)


def golden_files(directory: Path, kind: str, *groups: str) -> list[Path]:
    """The files of `kind` that hold at least one key under each of the prefixes `groups`."""
    return [
        path
        for path in sorted(directory.glob("*.npz"))
        if kind_of(path) == kind and all(GoldenFile(path).keys(group) for group in groups)
    ]


def channels_last(array: np.ndarray) -> np.ndarray:
    """[..., C, D, H, W] to [..., D, H, W, C]."""
    return np.moveaxis(array, -4, -1)


def splitmix64(name: str, seed: int, count: int) -> np.ndarray:
    """`count` uint64 values, a function of (name, seed, index) in integer arithmetic alone."""
    u64 = np.uint64
    with np.errstate(over="ignore"):
        key = u64((zlib.crc32(name.encode()) | (seed << 32)) & 0xFFFFFFFFFFFFFFFF)
        z = np.arange(count, dtype=u64) * u64(0x9E3779B97F4A7C15) + key * u64(0xD1B54A32D192ED03)
        z = (z ^ (z >> u64(30))) * u64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> u64(27))) * u64(0x94D049BB133111EB)
        return z ^ (z >> u64(31))


def odd_integers(name: str, seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Odd integers in [-21, 21], the sum of three 3-bit numbers, centred: roughly normal, deviation 7.94."""
    z = splitmix64(name, seed, math.prod(shape))
    total = sum((z >> np.uint64(shift)) & np.uint64(7) for shift in (0, 3, 6))
    return (2 * total.astype(np.int64) - 21).reshape(shape)


def recipe_weight(name: str, shape: list[int], seed: int, gain: float = 1.0) -> np.ndarray:
    """The float32 tensor that stands for the state dict entry `name` (PyTorch layout), exact to the bit."""
    k = odd_integers(name, seed, tuple(shape)).astype(np.float64)
    leaf = name.rsplit(".", 1)[-1]
    fan_in = math.prod(shape[1:])
    if leaf == "running_var":
        values = 1 + np.abs(k) / 32
    elif leaf == "gamma" or (leaf == "weight" and len(shape) < 2):  # the scale of a norm
        values = 1 + k / 64
    elif len(shape) < 2:  # biases and running means
        values = k / 64
    elif "relative_attention_bias" in name:
        values = k / 16
    elif leaf in ("embeddings", "z_avg"):
        values = k / 8
    else:
        values = k * 2.0 ** -round(math.log2(7.94 * math.sqrt(fan_in) / gain))
    return values.astype(np.float32)
