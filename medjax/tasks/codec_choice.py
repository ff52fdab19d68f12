"""Makes the codec that a configuration's `task` names."""

from ml_collections import ConfigDict

from medjax.codecs.codec import Codec
from medjax.codecs.haar import Haar
from medjax.codecs.haar_of_latents import HaarOfLatents
from medjax.codecs.identity import Identity
from medjax.codecs.latents import DYNAMIC_SHARE, Latents
from medjax.diffusion.wavelet_domain import Scale
from medjax.errors import UserError
from medjax.tasks.autoencoder import Autoencoder
from medjax.tasks.checks import check_size
from medjax.wavelets import SUBBANDS


def make_codec(config: ConfigDict, autoencoder: ConfigDict | None) -> Codec:
    """Makes a diffusion's codec.

    Args:
      config: configuration of the run.
      autoencoder: that of the run in `latents.vqgan`, where latents are learned.

    Raises:
      UserError: naming the key that cannot work.
    """
    size = check_size(config.data.size)
    match config.task:
        case "voxel_diffusion":
            return Identity(size)
        case "wavelet_diffusion":
            return Haar(size, scale=subband_scale(config))
    latents = _latents(config, autoencoder, size)
    if not config.latents.haar:
        return latents
    *edges, channels = latents.shape
    if any(edge % 2 for edge in edges):
        raise UserError(f"latents.haar is True, but latents are {tuple(edges)}: each edge must be even")
    haar = Haar(tuple(edges), channels, subband_scale(config), DYNAMIC_SHARE)
    return HaarOfLatents(latents, haar)


def networks_for(config: ConfigDict) -> tuple[str, ...]:
    """Lists which networks there are for the codec."""
    if config.task == "latent_diffusion":
        return ("factorized_unet", "unet")
    return ("unet", "wavelet_unet", "factorized_unet")


def subband_scale(config: ConfigDict) -> Scale:
    """Reads `diffusion.subband_scale`."""
    scale = tuple(float(value) for value in config.diffusion.subband_scale)
    if len(scale) != len(SUBBANDS) or not all(0 < value < float("inf") for value in scale):
        raise UserError(f"diffusion.subband_scale is {scale}: give {len(SUBBANDS)} positive numbers, LLL to HHH")
    return scale


def _latents(config: ConfigDict, autoencoder: ConfigDict, size: tuple[int, int, int]) -> Latents:
    described = autoencoder.copy_and_resolve_references()
    described.train.remat = "none"  # nothing is differentiated through it
    return Latents(
        autoencoder=Autoencoder.from_config(described).with_tile(config.latents.tile),
        size=size,
        downsample=tuple(described.model.downsample),
        channels=described.model.embedding_channels,
    )
