"""Words that change a configuration, as in configs/brats.py:256,wavunet."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict


def apply(config: ConfigDict, words: str | None, known: Mapping[str, Callable[[ConfigDict], None]]) -> ConfigDict:
    """Changes `config` by each of a comma list of words in turn.

    Raises:
      ValueError: a word is not in `known`.
    """
    for word in filter(None, (words or "").split(",")):
        if word not in known:
            raise ValueError(f"--config: {word!r} is not a variant of this file; use {', '.join(known)}")
        known[word](config)
    return config


def at_128(config: ConfigDict) -> None:
    """Sets the values published for 128^3."""
    config.data.size = (128, 128, 128)
    config.data.batch_size = 10
    config.model.channel_multipliers = (1, 2, 2, 4, 4)


def at_256(config: ConfigDict) -> None:
    """Sets the values published for 256^3."""
    config.data.size = (256, 256, 256)
    config.data.batch_size = 1
    config.sample.batch_size = 1
    config.model.channel_multipliers = (1, 2, 2, 4, 4, 4)


def wavunet(config: ConfigDict) -> None:
    """The other published network, whose levels are joined by Haar transforms."""
    config.model.network = "wavelet_unet"
    config.model.blocks_per_level = max(2, config.model.blocks_per_level)


def voxels(config: ConfigDict) -> None:
    """Diffusion on the voxels themselves, the 3D DDPM that WDM is compared with, by the same network."""
    config.task = "voxel_diffusion"
    del config.diffusion["subband_scale"]


def bf16(config: ConfigDict) -> None:
    """Less memory: bfloat16 activations, recomputed in the backward pass."""
    config.train.dtype = "bfloat16"
    config.train.remat = "blocks"


def short_run(config: ConfigDict) -> None:
    """Few small volumes, few steps and few samples, on atlas files where data.root is not given."""
    config.data.size = (32, 32, 32)
    config.data.batch_size = 4
    config.data.atlas_layout = True
    config.data.atlas_count = 24
    config.data.split_seed = 1  # leaves subjects on every side, of each reader's 24
    config.train.steps = 60
    config.train.log_every = 5
    config.train.eval_every = 20
    config.train.eval_volumes = 4
    config.train.checkpoint_every = 20
    config.sample.count = 4
    config.sample.batch_size = 4


def tiny(config: ConfigDict) -> None:
    """Trains and samples on two CPU cores in under a minute."""
    short_run(config)
    config.model.base_channels = 8
    config.model.channel_multipliers = (1, 2)
    config.model.blocks_per_level = 1 if config.model.network == "unet" else 2  # where levels of the other change width
    config.model.groups = 4
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 10
    config.train.ema_decay = 0.95


def fewstep(config: ConfigDict) -> None:
    """Trained for so few steps that all of them are sampled, as fastWDM3D (arXiv 2507.13146) does for two."""
    config.diffusion.steps = 2
    config.diffusion.schedule = "vp"
    config.sample.sampler = "ancestral"
    config.sample.variance = "small"
    config.sample.steps = None
    config.sample.schedule = "trained"


def published_sampling(config: ConfigDict) -> None:
    """Samples as WDM and Medical Diffusion did: through every step of training, by the ancestral sampler."""
    config.sample.sampler = "ancestral"
    config.sample.steps = None
    config.sample.schedule = "trained"


def flow(config: ConfigDict) -> None:
    """Rectified flow (arXiv 2209.03003) on the subbands."""
    config.diffusion.schedule = "flow"
    config.diffusion.prediction = "flow"
    config.diffusion.times = "continuous"


WDM_VARIANTS = {
    "128": at_128,
    "256": at_256,
    "wavunet": wavunet,
    "tiny": tiny,
    "bf16": bf16,
    "fewstep": fewstep,
    "flow": flow,
    "voxels": voxels,
    "published": published_sampling,
}
