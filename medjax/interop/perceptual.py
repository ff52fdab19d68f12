"""Reads the weights of LPIPS: VGG16's as torchvision stores them, and the linear layers' as the LPIPS authors do."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from medjax.errors import UserError
from medjax.interop.torch_load import load_state_dict

# torchvision's places of VGG16's convolutions in `features`, block by block.
PLACES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
WIDTHS = (64, 128, 256, 512, 512)


def load_perceptual(files: str) -> dict[str, Any]:
    """Reads the parameters of `models.perceptual.LPIPS`, float32, from one .pt file or from two, separated by a comma.

    Raises:
      UserError: naming a file that cannot be read, or what the files lack.
    """
    state_dict: dict[str, np.ndarray] = {}
    for file in files.split(","):
        state_dict |= load_state_dict(pathlib.Path(file.strip()).expanduser())
    try:
        return to_params(state_dict)
    except ValueError as error:
        raise UserError(f"losses.perceptual_weights={files}: {error}") from error


def to_params(state_dict: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Picks the same from a state dict whose VGG16 is `features.N` or, in LPIPS, `net.sliceS.N`; the rest is left alone.

    Raises:
      ValueError: a tensor is missing or has another shape.
    """
    vgg = {}
    for name, array in state_dict.items():
        if found := re.search(r"(?:^|\.)(?:features|net\.slice\d)\.(\d+\.(?:weight|bias))$", name):
            vgg[found[1]] = array
        elif found := re.search(r"(?:^|\.)(lin\d\.model\.\d)\.weight$", name):
            vgg[found[1].rpartition(".")[0]] = array

    def take(key: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
        if key not in vgg:
            raise ValueError(f"no {name}: name torchvision's VGG16 and the linear layers of LPIPS (vgg), FILE,FILE")
        if np.shape(vgg[key]) != shape:
            raise ValueError(f"{name} is {np.shape(vgg[key])}, not {shape}: it is not VGG16's")
        return np.asarray(vgg[key], np.float32)

    params: dict[str, Any] = {"vgg": {}}
    channels = 3
    for block, (places, width) in enumerate(zip(PLACES, WIDTHS, strict=True)):
        for i, place in enumerate(places):
            kernel = take(f"{place}.weight", f"features.{place}.weight", (width, channels, 3, 3))
            bias = take(f"{place}.bias", f"features.{place}.bias", (width,))
            params["vgg"][f"conv_{block}_{i}"] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
            channels = width
        linear = take(f"lin{block}.model", f"lin{block}.model.1.weight", (1, width, 1, 1))
        params[f"linear_{block}"] = linear.reshape(width)
    return params
