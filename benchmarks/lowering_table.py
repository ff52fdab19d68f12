"""Prints what the ways of medjax/layers/lowering.py cost: a residual block at each level of the U-Net for 128^3.

  python benchmarks/lowering_table.py --machine=v5e        the TPU compiler's estimated cycles; needs libtpu, takes many minutes
  python benchmarks/lowering_table.py                      milliseconds measured on this machine, all ways taken in turn
  python benchmarks/lowering_table.py --machine=v6e --levels=64x64 --ways="planes planes/2 planes/4"

A level is EDGExCHANNELS, a way LOWERING or LOWERING/FOLD. The block runs forward and gives the gradients of its input and
its parameters, in bfloat16, on a CPU in float32, for one volume. The table's own way is marked.
"""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from medjax.layers.lowering import Way, machine_of, way_for
from medjax.models.blocks import ResidualBlock
from medjax.xla import cost, hlo
from medjax.xla.topologies import open_topology

LEVELS = "64x64 32x128 16x128 8x256 4x256"
WAYS = "direct planes stacked direct/2 planes/2 stacked/2 planes/4"
CPU_WAYS = "direct planes stacked winograd"
SHAPES = {"v4": "2x2x1", "v5e": "1x1", "v5p": "2x2x1", "v6e": "1x1"}
CALLS = 5


def parse(text: str) -> Way:
    lowering, _, fold = text.partition("/")
    return Way(lowering, int(fold or 1))


def block(edge: int, channels: int, way: Way, dtype: jnp.dtype) -> tuple[Callable, tuple]:
    """A function that runs a block forward and backward, and the shapes of its arguments."""
    layer = ResidualBlock(
        channels, dtype=dtype, lowering=way.lowering, fold=way.fold, out_fold=way.fold, groups=min(32, channels)
    )
    x = jax.ShapeDtypeStruct((1, edge, edge, edge // way.fold, way.fold * channels), dtype)
    embedding = jax.ShapeDtypeStruct((1, 4 * channels), dtype)
    params = jax.eval_shape(layer.init, jax.random.key(0), x, embedding)

    def run(params, x, embedding, cotangent):
        y, gradients = jax.vjp(lambda params, x: layer.apply(params, x, embedding), params, x)
        return y, gradients(cotangent)

    return run, (params, x, embedding, x)


def estimated(machine: str, run: Callable, shapes: tuple) -> float:
    """Millions of cycles that the compiler for this TPU expects."""
    topology = open_topology(f"{machine}:{SHAPES[machine]}")
    one = SingleDeviceSharding(topology.devices[0])
    program = hlo.parse(jax.jit(run, in_shardings=one, out_shardings=one).lower(*shapes).compile().as_text())
    return cost.estimate(program, topology.chip.link_bytes_per_cycle).cycles / 1e6


def measured(runs: list[tuple[Callable, tuple]]) -> list[float]:
    """Median milliseconds of each, taken in turn."""
    ready = []
    for run, shapes in runs:
        keys = iter(jax.random.split(jax.random.key(0), 99))
        values = jax.tree.map(
            lambda leaf, keys=keys: 0.1 * jax.random.normal(next(keys), leaf.shape, leaf.dtype), shapes
        )
        jitted = jax.jit(run)
        jax.block_until_ready(jitted(*values))
        ready.append((jitted, values, []))
    for _ in range(CALLS):
        for jitted, values, times in ready:
            begin = time.perf_counter()
            jax.block_until_ready(jitted(*values))
            times.append(1000 * (time.perf_counter() - begin))
    return [statistics.median(times) for *_, times in ready]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=SHAPES, help="a TPU to compile for; by default this machine is measured")
    parser.add_argument("--levels", default=LEVELS)
    parser.add_argument("--ways", help=f"by default {WAYS}; on a CPU {CPU_WAYS}")
    arguments = parser.parse_args()
    machine = arguments.machine or machine_of(jax.devices()[0])
    unit = "million estimated cycles" if arguments.machine else "measured milliseconds"
    dtype, ways = (jnp.float32, CPU_WAYS) if machine == "cpu" else (jnp.bfloat16, WAYS)
    print(f"{machine}: a residual block forward and backward, {jnp.dtype(dtype)}, {unit}; * the table's way")
    for level in arguments.levels.split():
        edge, channels = map(int, level.split("x"))
        chosen = way_for(machine, channels, (edge, edge, edge))
        tried = [way for way in map(parse, (arguments.ways or ways).split()) if edge % way.fold == 0]
        runs = [block(edge, channels, way, dtype) for way in tried]
        costs = measured(runs) if not arguments.machine else (estimated(machine, *run) for run in runs)
        for way, seconds in zip(tried, costs, strict=True):
            name = way.lowering + (f"/{way.fold}" if way.fold > 1 else "")
            print(f"{level:>8} {name + ('*' if way == chosen else ''):>11} {seconds:9.2f}", flush=True)


if __name__ == "__main__":
    main()
