"""The keys of Medical Diffusion's two tasks (arXiv 2211.03364), an autoencoder and diffusion on its latents, as published."""

from ml_collections import ConfigDict, config_dict

from configs import common


def vqgan_model() -> ConfigDict:
    """The VQ-GAN published for 64^3 voxels; with another bottleneck, another autoencoder."""
    model = ConfigDict()
    model.base_channels = 16  # doubled with each halving of the volume
    model.downsample = (2, 2, 2)  # (D, H, W) of a volume to those of its latents; powers of two
    model.groups = 32
    model.norm = "group"  # or "batch"
    model.padding = "replicate"  # beyond a volume's border, or "zeros", "reflect", "circular"
    model.embedding_channels = 8  # of a latent
    model.bottleneck = "codebook"  # or "kl": latents are normal distributions near N(0, 1), and not quantised
    model.kl_weight = 1e-6  # of their divergence from it, summed over a volume's latents
    model.codes = 16384
    model.codebook_decay = 0.99
    model.commitment = 0.25
    model.restart_threshold = 1.0  # codes used less often are drawn anew from latents; 0: none are
    model.restart_statistics = True  # and their moving averages with them; False: as published, the old ones stay
    model.discriminator_channels = 64
    model.discriminator_layers = 3
    return model


def vqgan_losses() -> ConfigDict:
    """Returns the losses that teach a VQ-GAN."""
    losses = ConfigDict()
    losses.l1 = 4.0
    losses.perceptual = 4.0  # LPIPS of one slice
    losses.perceptual_weights = config_dict.placeholder(str)  # FILE.pt of VGG16 and LPIPS; without it the term is off
    losses.image_gan = 1.0  # by the discriminator of that slice
    losses.volume_gan = 1.0
    losses.gan_features = 4.0
    losses.discriminator = "hinge"  # or "vanilla"
    losses.discriminator_start = 10_000  # the first step with discriminators
    losses.discriminator_ramp = 0  # steps in which their weight then rises to the whole; 0: at once, as published
    losses.adaptive_weight = False  # scales their weight to the gradient of the reconstruction, as VQGAN does
    return losses


def vqgan_keys(config: ConfigDict) -> None:
    """Turns `base` into the task of Medical Diffusion's 3D VQ-GAN, with its published values for 64^3 voxels."""
    config.task = "vqgan"
    config.diffusion = ConfigDict()  # there is none
    config.model = vqgan_model()
    config.losses = vqgan_losses()

    # 3e-4 in the published configuration, which the code rescales by GPUs / 8 and by batch / 4: one GPU, batches of 2.
    config.optimizer.learning_rate = 1.875e-5
    config.optimizer.b1 = 0.5
    config.optimizer.b2 = 0.9
    config.optimizer.clip_norm = 1.0  # of the generator and of the discriminators, each on its own
    config.data.batch_size = 2
    config.train.steps = 100_000


def latent_diffusion_keys(config: ConfigDict) -> None:
    """Turns `base` into the task of Medical Diffusion's DDPM on latents, with its published values for 32^3 latents."""
    config.task = "latent_diffusion"
    config.model = model = ConfigDict()
    model.network = "factorized_unet"  # or "unet" with other keys: `plain_unet`
    model.base_channels = 32  # as published, the edge of the latents
    model.channel_multipliers = (1, 2, 4, 8)
    model.groups = 8
    model.attention_heads = 8
    model.attention_head_channels = 32
    model.first_kernel = 7  # (1, 7, 7): H and W
    model.spatial_attention = "linear"  # or "none"
    model.depth_attention = True
    common.label_keys(model)

    config.latents = latents = ConfigDict()
    latents.vqgan = config_dict.placeholder(str)  # the workdir of the trained VQ-GAN, which the first start copies
    latents.step = config_dict.placeholder(int)  # which of its checkpoints; the last by default
    latents.model = vqgan_model()  # what to plan with where there is none yet; a workdir says by itself
    latents.losses = vqgan_losses()
    latents.haar = False  # diffuse on the Haar transform of latents, not on these
    # What becomes [-1, 1]: the codebook's range, as published, that of the "data", or one standard "deviation" of these.
    latents.scaling = "codebook"
    latents.tile = config_dict.placeholder(
        tuple
    )  # (D, H, W) voxels to encode or decode at a time; the whole volume by default

    config.diffusion.steps = 300
    config.diffusion.schedule = "cosine_9999"  # with betas up to 0.9999, as published; "cosine" stops at 0.999
    config.diffusion.prediction = "noise"
    config.diffusion.loss = "l1"
    del config.diffusion["subband_scale"]
    config.optimizer.learning_rate = 1e-4
    config.train.steps = 150_000  # as the paper says; perhaps it counts batches, of which a step accumulates two
    config.train.accumulate = 2
    config.train.ema_decay = 0.995
    config.train.ema_start = 2000
    config.train.ema_every = 10
    config.sample.variance = "small"


def plain_unet(config: ConfigDict) -> None:
    """The plain 3D U-Net that the published code offers in place of the factorised one; halves D, H and W of the latents."""
    edge = config.model.base_channels
    config.model = model = common.unet_model()
    model.base_channels = edge
    model.channel_multipliers = (1, 2, 4)
    model.groups = 8
    model.skip = "concat"
    common.label_keys(model)
