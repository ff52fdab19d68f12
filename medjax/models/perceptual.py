"""Measures how different two slices look to VGG16: LPIPS (arXiv 1801.03924, 1409.1556). Its weights are never trained."""

import jax
import jax.numpy as jnp
from flax import linen as nn

WIDTHS, CONVOLUTIONS = (64, 128, 256, 512, 512), (2, 2, 3, 3, 3)  # of VGG16's five blocks
SMALLEST_SLICE = 2 ** (len(WIDTHS) - 1)  # voxels an edge; each block but the first halves it
# What the weights were trained on: the mean and the deviation of colours in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Measures the learned distance of slices, in float32, its products as exact as `train.precision` has them."""

    @nn.compact
    def __call__(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """Measures the distance of a from b, both [B, H, W, 1] in [-1, 1], averaged over voxels: [B].

        H and W are `SMALLEST_SLICE` or more.
        """
        vgg, distance = VGGFeatures(name="vgg"), 0.0
        for i, (of_a, of_b) in enumerate(zip(vgg(a), vgg(b), strict=True)):
            weights = self.param(f"linear_{i}", nn.initializers.ones, of_a.shape[-1:], jnp.float32)
            squares = (_unit_length(of_a) - _unit_length(of_b)) ** 2
            distance += jnp.mean(jnp.sum(squares * weights, axis=-1), axis=(1, 2))
        return distance


class VGGFeatures(nn.Module):
    """Computes the last activations of each block of VGG16, which has no classifier here."""

    @nn.compact
    def __call__(self, slices: jax.Array) -> list[jax.Array]:
        """Maps [B, H, W, 1] in [-1, 1] to [B, H / 2**i, W / 2**i, width] for each block i; grey counts as all three colours."""
        h = (slices.astype(jnp.float32) - jnp.array(SHIFT)) / jnp.array(SCALE)
        blocks = []
        for block, (width, convolutions) in enumerate(zip(WIDTHS, CONVOLUTIONS, strict=True)):
            if block > 0:
                h = max_pool(h)
            for i in range(convolutions):
                h = nn.relu(nn.Conv(width, (3, 3), padding=1, name=f"conv_{block}_{i}")(h))
            blocks.append(h)
        return blocks


def max_pool(x: jax.Array) -> jax.Array:
    """Takes the largest of each 2 x 2, whose gradient goes to the first of equals: [B, H, W, C] -> [B, H // 2, W // 2, C].

    As `nn.max_pool`, whose gradient GPUs cannot compute in one order, and XLA therefore not at all where it is asked for
    deterministic operations (select-and-scatter). An odd last row or column is left out.
    """
    rows, columns = (n // 2 * 2 for n in x.shape[1:3])
    upper, lower = x[:, 0:rows:2, :columns], x[:, 1:rows:2, :columns]
    upper, lower = (_larger(row[:, :, 0::2], row[:, :, 1::2]) for row in (upper, lower))
    return _larger(upper, lower)


def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """Takes the larger of two, the first where they are equal, and NaN where either is."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)


def _unit_length(features: jax.Array) -> jax.Array:
    # Inside the root too: where all features are zero its gradient would be infinite.
    length = jnp.sqrt(jnp.sum(features**2, axis=-1, keepdims=True) + 1e-20)
    return features / (length + 1e-10)
