"""Learns the codebook of a VQ-GAN (arXiv 1711.00937) by moving averages and not by gradient: pure functions of arrays.

A codebook is a dictionary, all float32 but the last: "embeddings" [K, c], the codes; "counts" [K], the moving average of
how many latents a batch each is nearest to, and "sums" [K, c], that of these latents' sums; "initialized", whether the
codes have been taken from latents yet.

Under a device mesh each device compares its own latents with all codes, and what is summed over latents is summed over
devices, so that all is as on one device. No array of all latents by all codes is ever made.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from medjax.layers.spatial import volume_spec

Codebook = dict[str, jax.Array]

MOST_DISTANCES = 2**24  # latents x codes compared at a time: 64 MiB
TINY = 1e-7  # a count that divides, where nothing uses a code


class Draw(NamedTuple):
    """Says which latents become codes.

    Attributes:
      rows: [K] int32, counting the latents [B, d, h, w, c] one after the other.
      noise: [K, c], added to them.
    """

    rows: jax.Array
    noise: jax.Array


class Learned(NamedTuple):
    """Holds what a codebook makes of a training batch.

    Attributes:
      quantized: [B, d, h, w, c], the codes, through which gradients pass as if they were the latents.
      distance: the mean squared distance of the latents from their codes; gradients reach the latents alone.
      codebook: after the batch.
      used: [K], how many latents each code stood for.
      restarted: number of codes that started again.
    """

    quantized: jax.Array
    distance: jax.Array
    codebook: Codebook
    used: jax.Array
    restarted: jax.Array


class Shard(NamedTuple):
    """Says where a device's part of an array [B, d, h, w, ...] lies.

    Attributes:
      axes: mesh axes over which the array is cut.
      first: [4], the place of the part's first element.
    """

    axes: tuple[str, ...]
    first: jax.Array

    def sum(self, values: jax.Array) -> jax.Array:
        """Sums over all devices."""
        return lax.psum(values, self.axes) if self.axes else values


def empty(key: jax.Array, codes: int, channels: int) -> Codebook:
    """Makes random codes, which the first batch will replace."""
    embeddings = jax.random.normal(key, (codes, channels))
    return {
        "embeddings": embeddings,
        "counts": jnp.zeros((codes,)),
        "sums": embeddings,
        "initialized": jnp.zeros((), bool),
    }


def draw(key: jax.Array, latents: int, codes: int, channels: int) -> Draw:
    """Draws as many different `latents` as there are codes; where codes are more, all several times, with a little noise."""
    order_key, noise_key = jax.random.split(key)
    copies = -(-codes // latents)
    rows = jax.random.permutation(order_key, copies * latents)[:codes] % latents
    noise = jax.random.normal(noise_key, (codes, channels)) * (0.01 * channels**-0.5 if copies > 1 else 0.0)
    return Draw(rows, noise)


def gather_latents(latents: jax.Array, draw: Draw) -> jax.Array:
    """Gathers the latents [B, d, h, w, c] that a draw names, [K, c], and adds its noise."""
    places = jnp.stack(jnp.unravel_index(draw.rows, latents.shape[:-1]), axis=-1)

    def take(shard: Shard, own: jax.Array) -> jax.Array:
        within = places - shard.first
        here = jnp.all((within >= 0) & (within < jnp.array(own.shape[:-1])), axis=-1, keepdims=True)
        return shard.sum(jnp.where(here, own.at[tuple(within.T)].get(mode="clip"), 0.0))

    return _on_shards(take, latents, cut=False) + draw.noise


def initialize(codebook: Codebook, latents: jax.Array, draw: Draw) -> Codebook:
    """Fills a codebook that is not initialized with latents for codes; one that is stays as it is."""
    embeddings = gather_latents(latents, draw)
    new = {
        "embeddings": embeddings,
        "counts": jnp.ones_like(codebook["counts"]),
        "sums": embeddings,
        "initialized": jnp.ones((), bool),
    }
    return jax.tree.map(lambda old, new: jnp.where(codebook["initialized"], old, new), codebook, new)


def nearest(embeddings: jax.Array, latents: jax.Array) -> jax.Array:
    """Finds the number [B, d, h, w] int32 of the code nearest to each latent [B, d, h, w, c] float32, the first of equals."""
    lengths = jnp.sum(embeddings**2, axis=-1)

    def compare(latent: jax.Array) -> jax.Array:
        # |z - e|^2 less |z|^2. In less than float32, as accelerators multiply by default, codes would flip.
        products = jnp.matmul(embeddings, latent, precision=lax.Precision.HIGHEST)
        return jnp.argmin(lengths - 2.0 * products).astype(jnp.int32)

    def search(_: Shard, own: jax.Array) -> jax.Array:
        rows = own.reshape(-1, own.shape[-1])
        at_once = max(1, min(len(rows), MOST_DISTANCES // len(embeddings)))
        return lax.map(compare, rows, batch_size=at_once).reshape(own.shape[:-1])

    return _on_shards(search, latents, cut=True)


def quantize(codebook: Codebook, latents: jax.Array) -> jax.Array:
    """Looks up the code [B, d, h, w, c] nearest to each latent."""
    return codebook["embeddings"][nearest(codebook["embeddings"], latents)]


def usage(codes: jax.Array, latents: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Counts how many latents each of `count` codes stands for, [count], and sums these, [count, c].

    Args:
      codes: [B, d, h, w], of `latents` [B, d, h, w, c].
    """

    def add_up(shard: Shard, codes: jax.Array, latents: jax.Array) -> tuple[jax.Array, jax.Array]:
        codes, rows = codes.reshape(-1), latents.reshape(-1, latents.shape[-1])
        sums = jax.ops.segment_sum(rows, codes, count)
        return shard.sum(jax.ops.segment_sum(jnp.ones(codes.shape), codes, count)), shard.sum(sums)

    return _on_shards(add_up, codes, latents, cut=False)


def learn(
    codebook: Codebook,
    latents: jax.Array,
    first_codes: Draw,
    restarts: Draw,
    *,
    decay: float,
    restart_threshold: float,
    restart_statistics: bool,
) -> Learned:
    """Quantises a batch's latents [B, d, h, w, c] float32, and lets the codebook follow them; arguments as of `update`.

    Args:
      first_codes: the latents that a codebook begins with which is not initialized.
      restarts: those that restarted codes become.
    """
    fixed = lax.stop_gradient(latents)
    codebook = initialize(codebook, fixed, first_codes)
    codes = nearest(codebook["embeddings"], fixed)
    quantized = codebook["embeddings"][codes]
    used, sums = usage(codes, fixed, len(codebook["counts"]))
    updated, restarted = update(
        codebook,
        used,
        sums,
        gather_latents(fixed, restarts),
        decay=decay,
        restart_threshold=restart_threshold,
        restart_statistics=restart_statistics,
    )
    distance = jnp.mean((latents - quantized) ** 2)
    return Learned(latents + (quantized - fixed), distance, updated, used, restarted)


def update(
    codebook: Codebook,
    used: jax.Array,
    sums: jax.Array,
    fresh: jax.Array,
    *,
    decay: float,
    restart_threshold: float,
    restart_statistics: bool,
) -> tuple[Codebook, jax.Array]:
    """Moves the codebook after a batch: each code the mean of its latents (moving averages, arXiv 1711.00937, A.1).

    Args:
      used, sums: results of `usage`.
      fresh: [K, c], what restarted codes become.
      decay: decay of the averages.
      restart_threshold: codes whose count is below it start again; 0: none do.
      restart_statistics: their counts and sums start again too. In the published code they do not, so that the next
        update takes such a code back to where it was.

    Returns:
      The codebook, and how many codes were restarted.
    """
    counts = decay * codebook["counts"] + (1.0 - decay) * used
    sums = decay * codebook["sums"] + (1.0 - decay) * sums
    total = jnp.sum(counts)
    smoothed = (counts + TINY) / (total + len(counts) * TINY) * total
    embeddings = sums / smoothed[:, None]
    restarted = counts < restart_threshold
    embeddings = jnp.where(restarted[:, None], fresh, embeddings)
    if restart_statistics:
        count = max(1.0, restart_threshold)
        counts = jnp.where(restarted, count, counts)
        sums = jnp.where(restarted[:, None], count * fresh, sums)
    new = {"embeddings": embeddings, "counts": counts, "sums": sums, "initialized": codebook["initialized"]}
    return new, jnp.sum(restarted)


def perplexity(counts: jax.Array) -> jax.Array:
    """Computes exp of the entropy of how often each code was used: K if all are alike, 1 if one is alone."""
    shares = counts / jnp.sum(counts)
    return jnp.exp(-jnp.sum(shares * jnp.log(shares + 1e-10)))


def _on_shards(function: Callable, *arrays: jax.Array, cut: bool):
    """Computes `function(shard, *arrays)` of each device's part of arrays [B, d, h, w, ...].

    Args:
      cut: the result lies like the arrays; if not, every device gives all of it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size <= 1:  # 0: none in force
        return function(Shard((), jnp.zeros((4,), jnp.int32)), *arrays)
    spec = volume_spec(arrays[0].shape, mesh.shape)

    def on_shard(*own: jax.Array):
        first = [0 if axes is None else lax.axis_index(axes) * n for axes, n in zip(spec, own[0].shape, strict=False)]
        axes = tuple(name for axes in spec if axes for name in ([axes] if isinstance(axes, str) else axes))
        return function(Shard(axes, jnp.stack([*map(jnp.int32, first), jnp.int32(0)])), *own)

    return jax.shard_map(on_shard, in_specs=spec, out_specs=spec if cut else PartitionSpec())(*arrays)
