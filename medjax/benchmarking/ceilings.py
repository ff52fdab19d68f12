"""Measures what the network's speed is held against: a product of matrices, a copy of the same bytes, in the same run."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medjax.benchmarking.rig import Bench
from medjax.runtime.mesh import AXES, batch_sharding, batch_ways
from medjax.wavelets import haar_dwt3d, haar_idwt3d

# Edges of the matrices whose product is the ceiling: large enough that a larger one is no faster.
PRODUCT_EDGE = {"cpu": 2048}
PRODUCT_EDGE_ELSEWHERE = 8192
LEAST_BYTES = 2**27  # a device's share of what is copied


def product_of(bench: Bench) -> Callable[[int], None]:
    """Multiplies large square matrices on every device at once, in the computation's dtype."""
    edge = product_edge(bench)
    spec = PartitionSpec(AXES)

    def product(a: jax.Array, b: jax.Array) -> jax.Array:
        return (a[0] @ b[0])[None].astype(a.dtype)

    sharding = NamedSharding(bench.run.mesh, spec)
    shape, dtype = (bench.run.mesh.size, edge, edge), jnp.dtype(bench.run.config.train.dtype)
    make = jax.jit(lambda key: jax.random.normal(key, shape, dtype), out_shardings=sharding)
    a, b = make(jax.random.key(0)), make(jax.random.key(1))
    multiply = jax.jit(jax.shard_map(product, mesh=bench.run.mesh, in_specs=(spec, spec), out_specs=spec))

    def repeat(calls: int) -> None:
        for _ in range(calls):
            c = multiply(a, b)
        jax.block_until_ready(c)

    return repeat


def product_edge(bench: Bench) -> int:
    """Returns the edge of the square matrices that `product_of` multiplies."""
    return PRODUCT_EDGE.get(bench.run.mesh.devices.flat[0].platform, PRODUCT_EDGE_ELSEWHERE)


def product_flops(bench: Bench) -> float:
    """Counts the operations on one device of what `product_of` times."""
    return 2.0 * product_edge(bench) ** 3


def haar(bench: Bench) -> dict[str, Any] | None:
    """Times the transform and its inverse against a copy of the same bytes and the transform as matrix products.

    Of as many volumes as no cache holds. None for volumes of odd edges.
    """
    size = tuple(bench.run.config.data.size)
    if any(edge % 2 for edge in size):
        return None
    ways = batch_ways(bench.run.mesh)
    count = -(-LEAST_BYTES * bench.run.mesh.size // (4 * math.prod(size) * ways)) * ways
    sharding = batch_sharding(bench.run.mesh, jax.ShapeDtypeStruct((count, *size, 1), jnp.float32))

    def jitted(function: Callable, argument: jax.Array) -> Callable[[int], None]:
        program = jax.jit(function)

        def repeat(calls: int) -> None:
            for _ in range(calls):
                y = program(argument)
            jax.block_until_ready(y)

        return repeat

    make = jax.jit(lambda: jax.random.normal(jax.random.key(0), (count, *size, 1)), out_shardings=sharding)
    x = make()
    subbands = jax.jit(haar_dwt3d)(x)
    timings = bench.timed(
        forward=jitted(haar_dwt3d, x),
        inverse=jitted(haar_idwt3d, subbands),
        copy=jitted(jnp.copy, x),
        matrices=jitted(haar_by_matrices, x),
    )
    copy = timings["copy"].median
    return {
        "bytes": 4 * x.size,
        "volumes": count,
        "copy_seconds": copy,
        "forward_seconds": timings["forward"].median,
        "inverse_seconds": timings["inverse"].median,
        "matrices_seconds": timings["matrices"].median,
        "forward_over_copy": timings["forward"].median / copy,
        "inverse_over_copy": timings["inverse"].median / copy,
        "matrices_over_forward": timings["matrices"].median / timings["forward"].median,
        "spread": max(timing.spread for timing in timings.values()),
    }


def haar_by_matrices(x: jax.Array) -> jax.Array:
    """Computes `haar_dwt3d` the slow way, as WDM's published code does: along each axis a product with a dense matrix."""

    def along(y: jax.Array, axis: int) -> jax.Array:
        n = y.shape[axis]
        pairs = np.repeat(np.eye(n // 2, dtype=np.float32), 2, axis=1) * np.float32(0.5**0.5)
        signs = np.tile(np.asarray([1, -1], np.float32), n // 2)
        matrix = jnp.concatenate([pairs, pairs * signs])  # the low half, then the high half
        return jnp.moveaxis(jnp.tensordot(matrix, y, (1, axis)), 0, axis)

    for axis in (1, 2, 3):
        x = along(x, axis)
    b, d, h, w, c = x.shape
    halves = x.reshape(b, 2, d // 2, 2, h // 2, 2, w // 2, c).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    return halves.reshape(b, d // 2, h // 2, w // 2, 8, c)
