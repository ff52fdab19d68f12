"""Your own scans: --config.data.root=DIR, any folder of scans, of any layout, or DICOM (docs/data.md).

Variants: 128 (the default), 256, wavunet, bf16, fewstep, flow, published (sampling), and tiny, which runs anywhere, on atlas
files if no root is given. For CT set data.window to "fixed" and data.window_range to (-1000.0, 1000.0), say, and
data.gamma to 0.0, as its intensities are measurements.
"""

from ml_collections import ConfigDict

from configs import common, variants


def get_config(arg: str | None = None) -> ConfigDict:
    config = common.base()
    config.data.name = "folder"
    config.data.fit = "resize"  # whatever the field of view, all of it is kept
    # Few scans are soon learned by heart. So each is shown a little otherwise every time, as far as people lie otherwise
    # in a scanner and scanners have other contrasts; more of it, or noise, would be seen in samples.
    config.data.rotate = 4.0
    config.data.scale = 0.04
    config.data.shift = 0.02
    config.data.gamma = 0.1
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 500
    config.optimizer.clip_norm = 1.0
    config.train.steps = 100_000
    config.train.eval_every = 500
    config.train.checkpoint_every = 500
    config.train.ema_decay = 0.9995
    config.data.batch_size = 2  # fits one GPU
    return variants.apply(config, arg, variants.WDM_VARIANTS)
