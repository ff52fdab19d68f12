"""Defines MedicalNet's 3D ResNets (arXiv 1904.00625), whose features the published Frechet distances are taken in.

The last two stages dilate their convolutions instead of striding, so that features stay at an eighth of the resolution.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from medjax.models.resnet_blocks import BasicBlock, Bottleneck, stem

# Of each stage: width, stride of the first block, dilation.
STAGES = ((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4))


class ResNet(nn.Module):
    """Maps volumes to features: a ResNet-50 unless told otherwise.

    Attributes:
      blocks: number of blocks of each stage; (1, 1, 1, 1) is ResNet-10, (2, 2, 2, 2) 18, (3, 4, 6, 3) 34 and 50.
      bottleneck: blocks of three convolutions, from ResNet-50 on, and 2048 features; otherwise of two, and 512.
      projection: a convolution where a block changes the shape; the published 18 and 34 have none.
    """

    blocks: tuple[int, ...] = (3, 4, 6, 3)
    bottleneck: bool = True
    projection: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps volumes [B, D, H, W, 1], intensities in [0, 1], to [B, features], the mean over the last stage's voxels."""
        block = Bottleneck if self.bottleneck else BasicBlock
        x = stem(x.astype(jnp.float32))
        self.sow("intermediates", "maxpool", x)
        for stage, (count, (width, stride, dilation)) in enumerate(zip(self.blocks, STAGES, strict=True), start=1):
            for i in range(count):
                strided = stride if i == 0 else 1
                x = block(width, strided, dilation, self.projection, name=f"layer{stage}_{i}")(x)
            self.sow("intermediates", f"layer{stage}", x)
        return jnp.mean(x, axis=(1, 2, 3))
