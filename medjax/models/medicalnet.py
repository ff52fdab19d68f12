"""MedicalNet's 3D ResNet-50 (arXiv 1904.00625), whose features the published Frechet distances are taken in.

For inference alone: batch norms use the statistics of training, which are parameters like any other here. The last two
stages dilate their convolutions instead of striding, so that features stay at an eighth of the resolution.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

FEATURES = 2048

# Of each stage: blocks, width of the 3x3x3 convolutions, stride of the first block, dilation.
STAGES = ((3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4))
EXPANSION = 4  # of a block's output, over its width


class ResNet50(nn.Module):
    """Volumes [B, D, H, W, 1], intensities in [0, 1], to features [B, 2048], the mean over the last stage's voxels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = convolution(64, 7, stride=2, name="conv1")(x.astype(jnp.float32))
        x = nn.relu(FrozenBatchNorm(name="bn1")(x))
        x = nn.max_pool(x, (3, 3, 3), (2, 2, 2), [(1, 1)] * 3)
        self.sow("intermediates", "maxpool", x)
        for stage, (blocks, width, stride, dilation) in enumerate(STAGES, start=1):
            for i in range(blocks):
                x = Bottleneck(width, stride if i == 0 else 1, dilation, name=f"layer{stage}_{i}")(x)
            self.sow("intermediates", f"layer{stage}", x)
        return jnp.mean(x, axis=(1, 2, 3))


class Bottleneck(nn.Module):
    """1x1x1, 3x3x3 and 1x1x1 convolutions beside the identity, or beside a convolution where the shape changes.

    Attributes:
      width: of the 3x3x3 convolution; the result is four times as wide.
      stride: of the 3x3x3 convolution.
      dilation: of the 3x3x3 convolution.
    """

    width: int
    stride: int = 1
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.relu(FrozenBatchNorm(name="bn1")(convolution(self.width, 1, name="conv1")(x)))
        h = convolution(self.width, 3, self.stride, self.dilation, name="conv2")(h)
        h = nn.relu(FrozenBatchNorm(name="bn2")(h))
        h = FrozenBatchNorm(name="bn3")(convolution(EXPANSION * self.width, 1, name="conv3")(h))
        if x.shape[-1] != h.shape[-1] or self.stride > 1:
            x = convolution(EXPANSION * self.width, 1, self.stride, name="downsample_0")(x)
            x = FrozenBatchNorm(name="downsample_1")(x)
        return nn.relu(x + h)


class FrozenBatchNorm(nn.Module):
    """(x - mean) / sqrt(var + 1e-5) * scale + bias, each [C]."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        one, zero = nn.initializers.ones, nn.initializers.zeros
        scale, bias, mean, var = (
            self.param(name, initial, x.shape[-1:], jnp.float32)
            for name, initial in (("scale", one), ("bias", zero), ("mean", zero), ("var", one))
        )
        return (x - mean) * (scale * jax.lax.rsqrt(var + 1e-5)) + bias


def convolution(features: int, kernel: int, stride: int = 1, dilation: int = 1, name: str | None = None) -> nn.Conv:
    """Without bias, padded as PyTorch does, starting from He's distribution."""
    return nn.Conv(
        features,
        (kernel,) * 3,
        strides=stride,
        padding=dilation * (kernel // 2),
        kernel_dilation=dilation,
        use_bias=False,
        kernel_init=nn.initializers.he_normal(),
        name=name,
    )
