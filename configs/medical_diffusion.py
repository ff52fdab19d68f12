"""Medical Diffusion (arXiv 2211.03364), two runs: a 3D VQ-GAN, then diffusion on its latents, --config.latents.vqgan=WORKDIR.

Variants: a dataset, atlas (the default), adni, brats, duke, lidc, mrnet or folder, with the numbers of Supplementary Table 1;
a stage, vqgan (the default) or ddpm; and of these unet, another network for ddpm, and haar, which has it learn the Haar
transform of latents; kl, an autoencoder without a codebook for both stages; demo and tiny, which run on a CPU, bf16, and
published, which samples as the paper did: all of its steps.
"""

from ml_collections import ConfigDict

from configs import affines, common, medical_keys, variants


def get_config(arg: str | None = None) -> ConfigDict:
    words = (arg or "").split(",")
    config = common.base()
    (medical_keys.latent_diffusion_keys if "ddpm" in words else medical_keys.vqgan_keys)(config)
    config.data.axes = "kij"  # slices first
    config.data.window_range = (0.0, 1.0)  # from the least to the largest value
    config.data.flip = True
    config.sample.batch_size = 1
    if not DATASETS.keys() & set(words):
        words.append("atlas")
    # Whatever the order of the words, a dataset is chosen before what is changed for it.
    network = {"unet": medical_keys.plain_unet, "haar": haar} if "ddpm" in words else {}
    known = (
        DATASETS
        | {"vqgan": _stage, "ddpm": _stage}
        | network
        | {"demo": demo, "tiny": tiny, "kl": kl, "bf16": variants.bf16}
    )
    known["published"] = variants.published_sampling
    order = {word: place for place, word in enumerate(known)}
    return variants.apply(config, ",".join(sorted(words, key=lambda word: order.get(word, -1))), known)


def atlas(config: ConfigDict) -> None:
    """Brains made from the MNI152 template, which are at hand everywhere, at ADNI's size."""
    config.data.name = "atlas"
    config.data.size = (64, 64, 64)
    config.data.atlas_count = 512
    published(config, downsample=2, batch_size=10)


def adni(config: ConfigDict) -> None:
    """ADNI, skull-stripped MPRAGE: 998 volumes."""
    config.data.name = "adni"
    config.data.orientation = "native"
    config.data.size = (64, 64, 64)
    config.data.fit = "brain"
    # A head as FSL stores one; brains fill the cube, so their scale is only known to about this.
    config.data.affine = affines.affine_about_origin(((-2.8, 0, 0), (0, 2.8, 0), (0, 0, 2.8)), (64, 64, 64))
    published(config, downsample=2, batch_size=10)


def brats(config: ConfigDict) -> None:
    """BraTS, FLAIR; in the published code, of high-grade gliomas (BraTS 2020), here of all, data.label_name="grade" to tell."""
    config.data.name = "brats"
    config.data.series = "t2f"
    config.data.orientation = "native"
    config.data.size = (64, 64, 64)
    config.data.fit = "brain"
    config.data.margin = 10
    config.data.affine = affines.affine_about_origin(((-2.8, 0, 0), (0, -2.8, 0), (0, 0, 2.8)), (64, 64, 64))
    published(config, downsample=2, batch_size=10)


def mrnet(config: ConfigDict) -> None:
    """MRNet, sagittal: 1250 volumes of 256 x 256 pixels and about 32 slices."""
    config.data.name = "mrnet"
    config.data.orientation = "native"
    config.data.size = (32, 256, 256)
    # Rows run down, columns back, slices to the right, as data_pipelines/readers/mrnet.py reads them.
    config.data.affine = affines.affine_about_origin(((0, 0, -0.625), (0, -0.625, 0), (3.0, 0, 0)), (256, 256, 32))
    published(config, downsample=4, batch_size=40)


def duke(config: ConfigDict) -> None:
    """Duke-Breast-Cancer-MRI, T1 before contrast: 1844 volumes."""
    config.data.name = "duke"
    config.data.orientation = "native"
    config.data.size = (32, 256, 256)
    # Pixels and slices differ from scanner to scanner; these are common ones.
    config.data.affine = affines.affine_about_origin(((-0.7, 0, 0), (0, -0.7, 0), (0, 0, 1.1)), (256, 256, 32))
    published(config, downsample=4, batch_size=40)


def lidc(config: ConfigDict) -> None:
    """LIDC-IDRI, 256 mm resampled to 1 mm and averaged down to 128^3: 1010 volumes."""
    config.data.name = "lidc"
    config.data.orientation = "native"
    config.data.size = (128, 128, 128)
    config.data.spacing = (1.0, 1.0, 1.0)
    config.data.affine = affines.affine_of_field((128.0, -128.0, -128.0), (-1, 1, 1), 2.0)
    published(config, downsample=4, batch_size=50)


def folder(config: ConfigDict) -> None:
    """Your own scans, .nii, .nii.gz or .npy, any orientation: cropped or padded to 256 x 256 x 32, as published."""
    config.data.name = "folder"
    config.data.size = (32, 256, 256)
    published(config, downsample=4, batch_size=40)


def published(config: ConfigDict, downsample: int, batch_size: int) -> None:
    """The numbers of Supplementary Table 1.

    Args:
      downsample: of D, H and W by the VQ-GAN.
      batch_size: of the diffusion.
    """
    if config.task == "vqgan":
        config.model.downsample = (downsample,) * 3
    else:
        config.latents.model.downsample = (downsample,) * 3
        config.model.base_channels = config.data.size[1] // downsample  # the edge of the latents
        config.data.batch_size = batch_size


def haar(config: ConfigDict) -> None:
    """Diffusion on the Haar transform of the latents: an eighth of the places, eight times the channels."""
    config.latents.haar = True
    config.diffusion.subband_scale = common.LLL_BY_3


def tiny(config: ConfigDict) -> None:
    """Both stages train on two CPU cores in a minute or two, on files laid out as the dataset's where data.root is not given."""
    variants.short_run(config)
    if config.data.name == "lidc":
        config.data.spacing = (8.0, 8.0, 8.0)  # the field of view stays 256 mm
    if config.data.affine is not None:
        config.data.affine = affines.affine_about_origin(((-8, 0, 0), (0, 8, 0), (0, 0, 8)), (32, 32, 32))
    vqgan = config.model if config.task == "vqgan" else config.latents.model
    vqgan.downsample = (2, 2, 2)
    vqgan.base_channels = 4
    vqgan.groups = 4
    vqgan.embedding_channels = 4
    vqgan.codes = 64
    vqgan.discriminator_channels = 4
    vqgan.discriminator_layers = 2
    if config.task == "vqgan":
        config.losses.discriminator_start = 30
        config.optimizer.learning_rate = 1e-3
    else:
        config.model.base_channels = 16
        config.model.channel_multipliers = (1, 2)
        config.model.groups = 4
        config.model.attention_heads = 2
        if config.model.network == "factorized_unet":
            config.model.attention_head_channels = 16
        else:
            config.model.blocks_per_level = 1
        config.optimizer.learning_rate = 2e-3
        config.train.accumulate = 1
        config.train.ema_decay = 0.9
        config.train.ema_start = 10
        config.train.ema_every = 2


def demo(config: ConfigDict) -> None:
    """Both stages on two CPU cores, on the atlas at 48^3: what atlas.py:demo is for wavelets, but longer."""
    config.data.size = (48, 48, 48)
    config.data.atlas_count = 320
    config.data.split = (0.7, 0.1, 0.2)
    config.data.flip = False  # so that latents may be prepared once
    vqgan = config.model if config.task == "vqgan" else config.latents.model
    vqgan.base_channels = 8
    vqgan.groups = 8
    vqgan.codes = 512
    vqgan.discriminator_channels = 8
    vqgan.discriminator_layers = 2
    config.optimizer.warmup_steps = 50
    config.optimizer.decay = "cosine"
    config.train.log_every = 10
    config.train.eval_every = 200
    config.train.eval_volumes = 16
    config.train.checkpoint_every = 200
    if config.task == "vqgan":
        config.optimizer.learning_rate = 1e-3
        config.losses.discriminator_start = 400
        config.losses.discriminator_ramp = 100
        config.train.steps = 600
    else:
        medical_keys.plain_unet(config)
        config.data.batch_size = 8
        config.model.base_channels = 16
        config.model.blocks_per_level = 1
        config.model.scale_shift_norm = True
        config.model.position_channels = 8
        config.diffusion.prediction = "v"
        config.diffusion.loss = "mse"
        config.latents.scaling = "data"
        config.optimizer.learning_rate = 5e-3
        config.optimizer.clip_norm = 1.0
        config.train.accumulate = 1
        config.train.ema_start = 0
        config.train.ema_every = 1
        config.train.steps = 900
        config.sample.batch_size = 8


def kl(config: ConfigDict) -> None:
    """The autoencoder of latent diffusion (arXiv 2112.10752) in place of the VQ-GAN: no codebook, latents near N(0, 1)."""
    if config.task == "vqgan":
        config.model.bottleneck = "kl"
    else:
        config.latents.model.bottleneck = "kl"
        config.latents.scaling = "deviation"
        config.sample.threshold = "none"  # scaled by their deviation, latents have no range to be kept in


def _stage(config: ConfigDict) -> None:
    """A stage has been chosen with the keys it needs."""


DATASETS = {
    "atlas": atlas, "adni": adni, "brats": brats, "duke": duke, "folder": folder, "lidc": lidc, "mrnet": mrnet,
}  # fmt: skip
