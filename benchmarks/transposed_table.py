"""How long a transposed convolution takes, as itself and as the convolution that layers/conv_transpose makes of it.

    python benchmarks/transposed_table.py [EDGE CHANNELS FEATURES]      32 64 64 by default

Prints the medians of several calls, forward and backward, taken in turn in one run, and how far the results are apart.
"""

import pathlib
import statistics
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from medjax.layers.conv import LOWERINGS, same_padding
from medjax.layers.conv_transpose import KERNEL, conv_transpose3d

STRIDES, CALLS = (2, 2, 2), 5


def transposed(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes it by its definition: a convolution with the flipped kernel, of the input with zeros between its voxels."""
    padded = jnp.pad(x, ((0, 0), *same_padding(KERNEL, STRIDES), (0, 0)), mode="edge")
    layout = ("NDHWC", "DHWIO", "NDHWC")
    flipped = kernel[::-1, ::-1, ::-1]
    return lax.conv_general_dilated(padded, flipped, (1,) * 3, ((0, 0),) * 3, STRIDES, dimension_numbers=layout)


def main(edge: int = 32, channels: int = 64, features: int = 64) -> None:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (1, edge, edge, edge, channels))
    kernel = jax.random.normal(keys[1], (*KERNEL, channels, features)) / (8 * channels) ** 0.5
    ways = {"transposed": transposed}
    for lowering in LOWERINGS:
        ways[lowering] = lambda x, kernel, lowering=lowering: conv_transpose3d(x, kernel, STRIDES, lowering)
    compiled = {}
    for name, way in ways.items():
        backward = jax.grad(lambda *arguments, way=way: jnp.sum(way(*arguments) ** 2), argnums=(0, 1))
        compiled[name] = [jax.jit(function) for function in (way, backward)]
    results = {
        name: [jax.block_until_ready(function(x, kernel)) for function in both] for name, both in compiled.items()
    }
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    for _ in range(CALLS):
        for name, both in compiled.items():
            for function, taken in zip(both, times[name], strict=True):
                begin = time.perf_counter()
                jax.block_until_ready(function(x, kernel))
                taken.append(time.perf_counter() - begin)
    print(f"[1, {edge}, {edge}, {edge}, {channels}] to {features} channels, {jax.default_backend()}")
    for name in ways:
        forward, backward = (1000 * statistics.median(taken) for taken in times[name])
        print(f"{name:>10}: forward {forward:9.1f} ms, gradients {backward:9.1f} ms, {apart(results, name):.1e} apart")


def apart(results: dict, name: str) -> float:
    """The largest difference from the transposed convolution, of the result and of gradients, relative to the largest value."""
    pairs = zip(jax.tree.leaves(results["transposed"]), jax.tree.leaves(results[name]), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(a))) for a, b in pairs)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
