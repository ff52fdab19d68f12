"""Compiles functions for a mesh: with the mesh in force while they are traced, and the options that its devices want.

XLA lays 3D convolutions out channels-first on GPUs, where the matrix units of cuDNN want channels last: every convolution is then
surrounded by transposes. An option of the compiler turns that round, for one program at a time, without the environment.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from medjax.errors import UserError
from medjax.runtime.mesh import on_mesh

Options = Mapping[str, bool | int | float | str]

NOTHING: Options = {}
GPU: Options = {"xla_gpu_force_conv_nhwc": True}
# Sums of gradients go out in pieces as soon as they are known, while the rest of the backward pass runs.
SEVERAL_GPUS: Options = {
    "xla_gpu_enable_latency_hiding_scheduler": True,
    "xla_gpu_all_reduce_combine_threshold_bytes": 2**25,
}


def jit_on(mesh: Mesh, function: Callable, options: Options = NOTHING, **how: Any) -> Callable:
    """Makes a jitted function for a mesh.

    Args:
      mesh: devices that it will run on, or be compiled for.
      function: what layers are told of the mesh while it is traced.
      options: of the compiler, besides and before those of `options_for`.
      how: as jax.jit takes it, such as `out_shardings`.
    """
    return jax.jit(on_mesh(function, mesh), compiler_options=options_for(mesh) | options or None, **how)


def options_for(mesh: Mesh) -> dict[str, bool | int | float | str]:
    """Returns the compiler's options that programs on a mesh have by default; none but on GPUs."""
    if mesh.devices.flat[0].platform != "gpu":
        return {}
    return dict(GPU) | (dict(SEVERAL_GPUS) if mesh.size > 1 else {})


def options_of(text: str) -> dict[str, bool | int | float | str]:
    """Reads options of the compiler, "name=value,name=value", as `train.xla` holds them.

    Raises:
      UserError: it cannot be read.
    """
    options = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise UserError(
                f"train.xla is {text!r}: {part!r} is no option; use name=value, such as xla_gpu_force_conv_nhwc=false"
            )
        options[name.removeprefix("--")] = _value(value)
    return options


def unknown_option(error: Exception) -> str | None:
    """Returns the option that the compiler does not know, where that is what an error says."""
    found = re.search(r"No such compile option: '([^']*)'", str(error))
    return found[1] if found else None


def _value(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
