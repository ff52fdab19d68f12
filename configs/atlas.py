"""Brains made from the MNI152 template: data that is at hand everywhere. The default.

Variants: demo (two CPU cores, minutes), tiny (under a minute), bf16, and after these fewstep, flow,
voxels (no wavelets) or published (sampling).
"""

from ml_collections import ConfigDict

from configs import common, variants


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.base()
    config.data.name = "atlas"
    config.data.size = (64, 80, 64)
    config.data.atlas_count = 512
    config.data.batch_size = 16
    config.data.window = "fixed"
    config.data.window_range = (0.0, 1200.0)  # white matter is about 1000
    config.model.base_channels = 32
    config.model.channel_multipliers = (1, 2, 4)
    config.model.groups = 16
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 200
    config.optimizer.decay = "cosine"
    config.optimizer.clip_norm = 1.0
    config.train.steps = 20_000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.train.ema_decay = 0.999
    known = {"demo": demo, "tiny": tiny, "bf16": variants.bf16, "fewstep": variants.fewstep, "flow": variants.flow}
    known |= {"voxels": variants.voxels, "published": variants.published_sampling}
    return variants.apply(config, arg, known)


def demo(config: ConfigDict) -> None:
    """Sets what `make demo` trains: brains of 5 mm voxels, by a small network in many short steps.

    Cosine spends fewer of its times on nearly pure noise than linear does, scale and shift let the network tell them apart,
    and learned positions spare it finding out where in the head it is.
    """
    config.data.size = (32, 40, 32)
    config.data.batch_size = 8
    config.data.atlas_count = 192
    config.model.base_channels = 16
    config.model.blocks_per_level = 1
    config.model.groups = 8
    config.model.scale_shift_norm = True
    config.model.position_channels = 8
    config.diffusion.schedule = "cosine"
    config.optimizer.learning_rate = 1e-2
    config.optimizer.warmup_steps = 50
    config.train.steps = 900
    config.train.log_every = 10
    config.train.eval_every = 300
    config.train.eval_volumes = 16
    config.train.checkpoint_every = 300
    config.train.ema_decay = 0.995
    config.sample.batch_size = 8


def tiny(config: ConfigDict) -> None:
    """Trains and samples on two CPU cores in under a minute."""
    variants.tiny(config)
    config.optimizer.decay = "constant"
