"""Numbers of a configuration with which no job can work are refused before any job begins, whatever it would make of them."""

import dataclasses
import math
from typing import Any

from ml_collections import ConfigDict

from medjax.errors import UserError

SEEDS = 2**32  # jax.random.key takes seeds modulo this, and would give two of them one stream


@dataclasses.dataclass(frozen=True)
class Limits:
    """Says which numbers a key may have.

    Attributes:
      words: the same for people.
      least: the smallest.
      below: what all are smaller than.
      positive: whether 0 is refused too.
    """

    words: str
    least: float = 0
    below: float = math.inf
    positive: bool = False

    def allow(self, number: Any) -> bool:
        """Whether it is a number and lies within them."""
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            return False
        return self.least <= number < self.below and (number > 0 or not self.positive)


SEED = Limits("a whole number from 0 to 2^32 - 1", below=SEEDS)
ONE_OR_MORE = Limits("1 or more", least=1)
NONE_OR_MORE = Limits("0 or more")
POSITIVE = Limits("a positive number", positive=True)
BELOW_ONE = Limits("0 to less than 1", below=1)

LIMITS = {
    "seed": SEED,
    "data.atlas_seed": SEED,
    "data.batch_size": ONE_OR_MORE,
    "data.atlas_count": ONE_OR_MORE,
    "data.size": ONE_OR_MORE,
    "data.margin": NONE_OR_MORE,
    "data.lesion_share": Limits("a share, 0 to 1", below=math.nextafter(1, 2)),
    "model.base_channels": ONE_OR_MORE,
    "model.channel_multipliers": ONE_OR_MORE,
    "model.groups": ONE_OR_MORE,
    "model.blocks_per_level": ONE_OR_MORE,
    "model.attention_factors": ONE_OR_MORE,
    "model.attention_heads": ONE_OR_MORE,
    "model.up_attention_heads": ONE_OR_MORE,
    "model.attention_head_channels": ONE_OR_MORE,
    "model.first_kernel": ONE_OR_MORE,
    "model.position_channels": NONE_OR_MORE,
    "model.dropout": BELOW_ONE,
    "model.commitment": NONE_OR_MORE,
    "model.kl_weight": NONE_OR_MORE,
    "model.restart_threshold": NONE_OR_MORE,
    "losses.l1": NONE_OR_MORE,
    "losses.perceptual": NONE_OR_MORE,
    "losses.image_gan": NONE_OR_MORE,
    "losses.volume_gan": NONE_OR_MORE,
    "losses.gan_features": NONE_OR_MORE,
    "losses.discriminator_start": NONE_OR_MORE,
    "losses.discriminator_ramp": NONE_OR_MORE,
    "latents.step": NONE_OR_MORE,
    "diffusion.steps": ONE_OR_MORE,
    "diffusion.min_snr": NONE_OR_MORE,
    "optimizer.learning_rate": NONE_OR_MORE,
    "optimizer.warmup_steps": NONE_OR_MORE,
    "optimizer.weight_decay": NONE_OR_MORE,
    "optimizer.b1": BELOW_ONE,
    "optimizer.b2": BELOW_ONE,
    "optimizer.eps": NONE_OR_MORE,
    "optimizer.clip_norm": NONE_OR_MORE,
    "train.steps": ONE_OR_MORE,
    "train.log_every": ONE_OR_MORE,
    "train.eval_every": ONE_OR_MORE,
    "train.eval_volumes": NONE_OR_MORE,
    "train.evaluate_every": NONE_OR_MORE,
    "train.checkpoint_every": ONE_OR_MORE,
    "train.keep": ONE_OR_MORE,
    "train.ema_decay": BELOW_ONE,
    "train.ema_start": NONE_OR_MORE,
    "train.ema_every": ONE_OR_MORE,
    "train.accumulate": ONE_OR_MORE,
    "train.fold": ONE_OR_MORE,
    "mesh.fsdp": ONE_OR_MORE,
    "mesh.depth": ONE_OR_MORE,
    "mesh.height": ONE_OR_MORE,
    "sample.seed": SEED,
    "sample.batch_size": NONE_OR_MORE,
    "sample.steps": ONE_OR_MORE,
    "sample.eta": NONE_OR_MORE,
    "sample.guidance": Limits("a number", least=-1e30),
    "evaluate.seed": SEED,
    "benchmark.windows": ONE_OR_MORE,
    "benchmark.seconds": POSITIVE,
    "benchmark.limit_seconds": POSITIVE,
}


def check_numbers(config: ConfigDict) -> None:
    """Checks every number that `LIMITS` knows; a key that a task has not, or that is None, is passed over.

    Raises:
      UserError: naming the first key that cannot work.
    """
    for key, limits in LIMITS.items():
        *sections, name = key.split(".")
        part = config
        for section in sections:
            part = part.get(section) or ConfigDict()
        value = part.get(name)
        if value is None:
            continue
        several = isinstance(value, (tuple, list))
        if not all(map(limits.allow, value if several else (value,))):
            raise UserError(f"{key} is {value}: use {limits.words}")
