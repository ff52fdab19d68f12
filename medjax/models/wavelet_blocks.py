"""Defines residual blocks that resample by a Haar transform after their first convolution: those of WDM's wavelet U-Net."""

import jax
from flax import linen as nn

from medjax.layers.wavelet_resample import haar_down, haar_up
from medjax.models.blocks import ResidualBlock


class WaveletDownBlock(ResidualBlock):
    """Halves the resolution in a residual block of as many features as its input has; what LLL lacks is kept apart.

    Attributes:
      resample, keep_depth: not used.
    """

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Maps x [B, D, H, W/fold, fold * C] and the time [B, E] to the volume at half the resolution, and its details.

        Returns:
          [B, D/2, H/2, W/2/out_fold, out_fold * C] and, for the `WaveletUpBlock` of the level, the seven high subbands of
          the learning path, [B, D/2, H/2, W/2/out_fold, out_fold * 7C].
        """
        h = self._conv("conv_1", self.fold)(self._activated(x))
        h, details = haar_down(h, self.fold, self.out_fold)
        x, _ = haar_down(x, self.fold, self.out_fold)
        return x + self._second_half(h, embedding, train), details


class WaveletUpBlock(ResidualBlock):
    """Doubles the resolution in a residual block of as many features as its input has, given the details.

    Attributes:
      resample, keep_depth: not used.
    """

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool, details: jax.Array) -> jax.Array:
        """Maps x [B, D, H, W/fold, fold * C], [B, E], `haar_down`'s details to [B, 2D, 2H, 2W/out_fold, out_fold * C].

        Both paths take the same details.
        """
        h = self._conv("conv_1", self.fold)(self._activated(x))
        h, x = (haar_up(path, details, self.fold, self.out_fold) for path in (h, x))
        return x + self._second_half(h, embedding, train)
