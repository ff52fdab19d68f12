"""Prints what the two forms of the Haar transform of one channel cost on a TPU, beside copying the same bytes.

  python benchmarks/haar_table.py                 volumes of 128^3 and 256^3 on a v5e; needs libtpu, takes a minute

Million cycles and GB of temporaries, both as the TPU's compiler estimates them; nothing runs. The copy is `2 * x` of a volume
without its axis of one channel, [D, H, W]: with it XLA lays a register's eight rows one by one, and that copy costs five times as
much.
"""

import argparse
import pathlib
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
from medjax.wavelets import dwt_along_lanes, dwt_by_cubes, idwt_along_lanes, idwt_by_cubes
from medjax.xla import cost, hlo
from medjax.xla.topologies import Topology, open_topology


def twice(x: jax.Array) -> jax.Array:
    return 2 * x


def estimated(topology: Topology, run: Callable, shape: tuple[int, ...]) -> tuple[float, float]:
    one = SingleDeviceSharding(topology.devices[0])
    argument = jax.ShapeDtypeStruct(shape, jnp.float32)
    executable = jax.jit(run, in_shardings=one, out_shardings=one).lower(argument).compile()
    cycles = cost.estimate(hlo.parse(executable.as_text()), topology.chip.link_bytes_per_cycle).cycles
    return cycles / 1e6, cost.memory(executable).temporaries / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:1x1")
    parser.add_argument("--edges", default="128 256")
    arguments = parser.parse_args()
    topology = open_topology(arguments.topology)
    for edge in map(int, arguments.edges.split()):
        volume, coefficients = (1, edge, edge, edge, 1), (1, *3 * (edge // 2,), 8, 1)
        for run, shape in (
            (twice, (edge, edge, edge)),
            (twice, volume),
            *((run, volume) for run in (dwt_by_cubes, dwt_along_lanes)),
            *((run, coefficients) for run in (idwt_by_cubes, idwt_along_lanes)),
        ):
            cycles, temporaries = estimated(topology, run, shape)
            print(f"{run.__name__:>17} {shape!s:>24} {cycles:8.2f} M cycles {temporaries:6.2f} GB", flush=True)


if __name__ == "__main__":
    main()
