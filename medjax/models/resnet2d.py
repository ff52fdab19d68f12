"""Defines a 2D ResNet-50, of ImageNet or RadImageNet, which is shown a volume's slices: features of three planes ("2.5D")."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medjax.models.resnet_blocks import Bottleneck, stem

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))  # of each: width, stride of the first block
SLICES = 16  # of each plane


class ResNet2D(nn.Module):
    """Maps pictures to features; torchvision's and Keras's ResNet-50, without the head.

    Attributes:
      blocks: number of blocks of each stage; (3, 4, 6, 3) is ResNet-50.
      stride_first: see `Bottleneck`.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    stride_first: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images [B, H, W, 3] to [B, 2048], the mean over the last stage's pixels."""
        x = stem(x.astype(jnp.float32))
        for stage, (count, (width, stride)) in enumerate(zip(self.blocks, STAGES, strict=True), start=1):
            for i in range(count):
                strided = stride if i == 0 else 1
                x = Bottleneck(width, strided, stride_first=self.stride_first, name=f"layer{stage}_{i}")(x)
        return jnp.mean(x, axis=(1, 2))


def three_planes(volumes: jax.Array) -> list[jax.Array]:
    """Slices of volumes [B, D, H, W, 1], evenly spread over each axis without its ends, all where there are fewer.

    Returns:
      Three arrays [B, S, ., ., 1]: across D, across H and across W. A volume counts once however many slices it has, so
      features are averaged over S; papers that count every slice as a sample of its own get other numbers.
    """
    planes = []
    for axis in (1, 2, 3):
        edge = volumes.shape[axis]
        inside = np.round(np.linspace(0, edge - 1, SLICES + 2)[1:-1]).astype(int)
        places = inside if edge > SLICES else np.arange(edge)
        planes.append(jnp.moveaxis(jnp.take(volumes, places, axis=axis), axis, 1))
    return planes
