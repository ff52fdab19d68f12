"""Averages MS-SSIM between the volumes of one set: how little they vary. Only beside that of real volumes does it say much."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medjax.metrics.ms_ssim import Moments, moments, ms_ssim_of_moments, scales_of

RESIDENT_VOXELS = 2**26  # on the device at once, of either side of the pairs; with their moments about 1 GB


@dataclasses.dataclass(frozen=True)
class PairSimilarity:
    """Holds the mean MS-SSIM of pairs of volumes.

    Attributes:
      mean: over the pairs, from 0 to 1; less is more varied.
      error: its standard error over new sets of volumes, see `standard_error`; None of a single pair.
      pairs: number of pairs that were compared.
      exact: whether these are all there are.
      n: volumes.
      scales: that they have; only means of equal scales compare.
    """

    mean: float
    error: float | None
    pairs: int
    exact: bool
    n: int
    scales: int


def mean_ms_ssim(
    volumes: np.ndarray, pairs: int | None = None, seed: int = 0, sharding: NamedSharding | None = None
) -> PairSimilarity:
    """Averages MS-SSIM over pairs of different volumes of [n, D, H, W, 1] float32 in [-1, 1], on the host.

    Each volume is sent to the device once, unless there are more than fit in `RESIDENT_VOXELS`.

    Args:
      pairs: number of pairs to sample, rounded up to n times a whole number; all of them by default.
      seed: seed of the sample.
      sharding: sharding of the pairs' axis over a mesh; one device by default. The volumes lie on all devices.

    Raises:
      ValueError: fewer than two volumes, an edge too short for the window, or a voxel that is not finite.
    """
    n = len(volumes)
    if n < 2:
        raise ValueError(f"{n} volume: a mean over pairs needs two or more")
    scales = scales_of(volumes.shape[1:4])
    chosen = choose_pairs(n, pairs, seed)
    values = similarities(volumes, chosen, sharding)
    if not np.isfinite(values).all():
        raise ValueError("MS-SSIM of volumes with voxels that are not finite")
    error = standard_error(values, chosen, n)
    return PairSimilarity(float(values.mean()), error, len(chosen), len(chosen) == math.comb(n, 2), n, scales)


def choose_pairs(n: int, count: int | None, seed: int) -> np.ndarray:
    """Returns [P, 2] different pairs i < j of n volumes: all, or about `count`, in which each volume is equally often.

    The volumes are put in a circle in random order, and each is paired with those at some random distances along it.
    """
    if count is None or math.ceil(count / n) > (n - 1) // 2:
        return np.array(list(itertools.combinations(range(n), 2)))
    rng = np.random.default_rng(seed)
    circle = rng.permutation(n)
    distances = 1 + rng.permutation((n - 1) // 2)[: max(1, math.ceil(count / n))]
    pairs = np.concatenate([np.stack([circle, np.roll(circle, -distance)], axis=1) for distance in distances])
    return np.sort(pairs, axis=1)


def standard_error(values: np.ndarray, pairs: np.ndarray, n: int) -> float | None:
    """Returns the standard error, over new volumes, of the mean of `values` [P], each of one of `pairs` [P, 2] of n volumes.

    Pairs that share a volume vary together, so P pairs tell less than P numbers would: the variance of the mean sums the
    products of deviations over all pairs of pairs with a volume in common (Fafchamps and Gubert 2007), and is at least that
    of P independent numbers. None of a single pair.
    """
    if len(values) < 2:
        return None
    deviations = np.asarray(values, np.float64) - np.mean(values)
    of_volume = np.bincount(pairs.ravel(), np.repeat(deviations, 2), minlength=n)
    independent = np.sum(deviations**2)
    # The deviations are from the mean of the same volumes, hence the factor, which the jackknife has too. Every pair has been
    # counted at both of its volumes.
    together = np.sum(of_volume**2) * n * (n - 1) / (n - 2) ** 2 - independent
    return float(np.sqrt(max(together, independent)) / len(values))


def similarities(volumes: np.ndarray, pairs: np.ndarray, sharding: NamedSharding | None = None) -> np.ndarray:
    """Computes the MS-SSIM of each of `pairs` [P, 2] of volumes [n, D, H, W, 1], a tile of volumes at a time: [P] float32."""
    tile = max(2, RESIDENT_VOXELS // math.prod(volumes.shape[1:]))
    starts = range(0, len(volumes), tile)
    take, compare = _compiled(sharding)
    # One length for all tiles, so that one program compares them: filled up with pairs that are dropped.
    ways = 1 if sharding is None else sharding.mesh.size
    most = np.unique(pairs // tile, axis=0, return_counts=True)[1].max(initial=0)
    length = -(-most // ways) * ways
    values = np.empty(len(pairs), np.float32)
    for first in starts:
        left = None
        for second in starts[first // tile :]:
            chosen = np.flatnonzero((pairs // tile == (first // tile, second // tile)).all(axis=1))
            if not len(chosen):
                continue
            left = take(volumes[first : first + tile]) if left is None else left
            right = left if first == second else take(volumes[second : second + tile])
            local = np.resize(pairs[chosen] - (first, second), (length, 2)).astype(np.int32)
            values[chosen] = np.asarray(compare(left, right, local))[: len(chosen)]
    return values


@functools.cache
def _compiled(sharding: NamedSharding | None) -> tuple[Callable, Callable]:
    """Compiles what turns volumes into moments on the devices, and pairs of these into similarities."""

    def compare(left: list[Moments], right: list[Moments], pairs: jax.Array) -> jax.Array:
        def one(pair: jax.Array) -> jax.Array:
            return ms_ssim_of_moments(_row(left, pair[0]), _row(right, pair[1]))[0]

        # A pair at a time stays in a CPU's cache; an accelerator is filled by a few.
        return jax.lax.map(one, pairs, batch_size=1 if jax.default_backend() == "cpu" else 8)

    if sharding is None:
        return jax.jit(moments), jax.jit(compare)
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    shared = jax.shard_map(
        compare,
        mesh=sharding.mesh,
        in_specs=(PartitionSpec(), PartitionSpec(), sharding.spec),
        out_specs=sharding.spec,
    )
    return jax.jit(moments, out_shardings=everywhere), jax.jit(shared, out_shardings=everywhere)


def _row(levels: list[Moments], row: jax.Array) -> list[Moments]:
    """Computes the moments of one volume, n = 1."""
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, row), levels)
