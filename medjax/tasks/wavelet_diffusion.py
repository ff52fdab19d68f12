"""Diffusion on the eight subbands of a 3D Haar transform (WDM, arXiv 2402.19043).

The network sees the noisy coefficients of a volume, LLL divided by 3, and predicts the clean ones. White noise stays white
under an orthonormal transform, so noise is drawn in the wavelet domain directly.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from medjax.diffusion import process, samplers
from medjax.diffusion.schedules import Schedule, cosine, linear, respace
from medjax.diffusion.wavelet_domain import (
    clamp_in_image_space,
    from_wavelet_domain,
    subband_mse,
    to_wavelet_domain,
)
from medjax.errors import UserError
from medjax.layers.conv import LOWERINGS, default_lowering
from medjax.layers.spatial import keep_split
from medjax.models.unet import UNet, size_multiple
from medjax.wavelets import SUBBANDS

Arrays = Any
Batch = dict[str, jax.Array]

QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class WaveletDiffusion:
    """The task.

    Attributes:
      network: maps (coefficients [B, D/2, H/2, W/2, 8C], t [B]) to the clean coefficients, same shape.
      schedule: of training.
      size: (D, H, W) of a volume, even.
      channels: C of a volume.
      sampler: "ancestral" or "ddim".
      sampling_steps: how many of the schedule's steps to sample with, evenly spaced; None for all.
      eta: 0 makes DDIM deterministic given its first noise, 1 gives it the ancestral variance (arXiv 2010.02502, eq. 16).
    """

    network: nn.Module
    schedule: Schedule
    size: tuple[int, int, int]
    channels: int = 1
    sampler: str = "ddim"
    sampling_steps: int | None = None
    eta: float = 0.0

    def __post_init__(self):
        if self.sampler not in ("ancestral", "ddim"):
            raise UserError(f"sample.sampler is {self.sampler!r}: use 'ancestral' or 'ddim'")
        if self.sampling_steps is not None and not 1 <= self.sampling_steps <= self.schedule.steps:
            raise UserError(f"sample.steps is {self.sampling_steps}: use 1 to diffusion.steps = {self.schedule.steps}")

    @classmethod
    def from_config(cls, config: ConfigDict) -> "WaveletDiffusion":
        """The task that a configuration describes (configs/common.py names every key)."""
        model = config.model
        lowering = config.train.lowering or default_lowering(jax.default_backend())
        for key, value, choices in (
            ("model.network", model.network, ("unet",)),
            ("model.skip", model.skip, ("add", "concat")),
            ("train.dtype", config.train.dtype, ("float32", "bfloat16")),
            ("train.lowering", lowering, LOWERINGS),
        ):
            if value not in choices:
                raise UserError(f"{key} is {value!r}: use {' or '.join(map(repr, choices))}")
        widths = [model.base_channels * multiplier for multiplier in model.channel_multipliers]
        if any(width % model.groups for width in [model.base_channels, *widths]):
            raise UserError(
                f"model.groups is {model.groups}: it must divide every width, {model.base_channels}, {widths}"
            )
        network = UNet(
            out_channels=8,
            base_channels=model.base_channels,
            channel_multipliers=tuple(model.channel_multipliers),
            blocks_per_level=model.blocks_per_level,
            attention_factors=tuple(model.attention_factors),
            middle_attention=model.middle_attention,
            attention_heads=model.attention_heads,
            scale_shift_norm=model.scale_shift_norm,
            skip=model.skip,
            resample_blocks=model.resample_blocks,
            keep_depth=model.keep_depth,
            position_channels=model.position_channels,
            dropout=model.dropout,
            groups=model.groups,
            dtype=jnp.dtype(config.train.dtype),
            remat=remat_levels(config.train.remat, max(config.data.size) // 2, len(model.channel_multipliers)),
            lowering=lowering,
        )
        return cls(
            network=network,
            schedule=make_schedule(config.diffusion.schedule, config.diffusion.steps),
            size=tuple(config.data.size),
            sampler=config.sample.sampler,
            sampling_steps=config.sample.steps,
            eta=config.sample.eta,
        )

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """What D, H and W of a volume must be multiples of: the transform halves them, then the network."""
        multiple = size_multiple(len(self.network.channel_multipliers), self.network.keep_depth)
        return tuple(2 * edge for edge in multiple)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]:
        """Float32 parameters, and no variables, for volumes like `batch["image"]`, [B, D, H, W, C]."""
        coefficients = to_wavelet_domain(batch["image"][:1])
        return self.network.init(key, coefficients, jnp.zeros((1,), jnp.int32))["params"], {}

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, dict[str, jax.Array]]:
        """Gradient of the mean over examples and subbands of the squared error, at one random time an example.

        Args:
          batch: "image" [B, D, H, W, C] in [-1, 1], float32, and "row" [B], each example's place in the whole batch, which keys
            its randomness: neither devices nor microbatches change it.
        """
        del frozen, step
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        rows, steps = batch["row"], self.schedule.steps
        t = jax.vmap(lambda row: jax.random.randint(jax.random.fold_in(t_key, row), (), 0, steps))(rows)
        x_0 = to_wavelet_domain(batch["image"])
        noise = normal_by_row(noise_key, rows, x_0.shape[1:])

        def loss_of(params: Arrays) -> tuple[jax.Array, jax.Array]:
            x_t = process.q_sample(self.schedule, x_0, t, noise)
            prediction = self.network.apply(
                {"params": params}, x_t, t, train=True, rngs={"dropout": jax.random.fold_in(dropout_key, rows[0])}
            )
            errors = subband_mse(prediction, x_0)
            return jnp.mean(errors), errors

        (loss, errors), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return grads, variables, {"loss": loss, **self._details(errors, t)}

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Losses of each volume, [B], at one fixed time in each quarter of the schedule, with fixed noise."""
        del variables, frozen
        x_0 = to_wavelet_domain(batch["image"])
        # The golden ratio spreads the times of successive volumes evenly over the quarter.
        within = jnp.mod(batch["row"].astype(jnp.float32) * 0.6180339887, 1.0)

        def errors_in(quarter: jax.Array) -> jax.Array:
            t = ((quarter + within) / QUARTERS * self.schedule.steps).astype(jnp.int32)
            return subband_mse(self._denoised(params, x_0, t, jax.random.fold_in(key, quarter), batch["row"]), x_0)

        by_quarter = jax.lax.map(errors_in, jnp.arange(QUARTERS))  # [quarter, B, 8]
        return {
            "val_loss": jnp.mean(by_quarter, axis=(0, 2)),
            **{f"val_loss/{band}": jnp.mean(by_quarter[..., i], axis=0) for i, band in enumerate(SUBBANDS)},
            **{f"val_loss/quarter_{q + 1}": jnp.mean(by_quarter[q], axis=-1) for q in range(QUARTERS)},
        }

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """The batch noised to a quarter, a half and three quarters of the schedule, and denoised in one step."""
        del variables, frozen
        x_0 = to_wavelet_domain(batch["image"])

        def volumes_from(quarter: jax.Array) -> jax.Array:
            t = jnp.full(batch["row"].shape, quarter * self.schedule.steps // QUARTERS, jnp.int32)
            prediction = self._denoised(params, x_0, t, jax.random.fold_in(key, quarter), batch["row"])
            return from_wavelet_domain(prediction)

        volumes = jax.lax.map(volumes_from, jnp.arange(1, QUARTERS))
        return {f"denoised_from_{i + 1}_of_{QUARTERS}": volume for i, volume in enumerate(volumes)}

    def sample(
        self, params: Arrays, variables: Arrays, frozen: Arrays, keys: jax.Array, conditions: None = None
    ) -> jax.Array:
        """Draws one volume for each key.

        Args:
          keys: [B] keys; volume i depends on the parameters and keys[i] alone.

        Returns:
          [B, D, H, W, C] float32 in [-1, 1].
        """
        del variables, frozen, conditions
        shape = (*(edge // 2 for edge in self.size), 8 * self.channels)

        def noise_at(i: jax.Array | int) -> jax.Array:
            return keep_split(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys))

        def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array:
            return clamp_in_image_space(self.network.apply({"params": params}, x_t, t))

        steps = self.sampling_steps or self.schedule.steps
        schedule = respace(self.schedule, steps)
        x_T = noise_at(steps)  # the sampler itself asks for noise 0 .. steps - 1
        if self.sampler == "ancestral":
            x_0 = samplers.ancestral(denoise, x_T, noise_at, schedule)
        else:
            x_0 = samplers.ddim(denoise, x_T, noise_at, schedule, eta=self.eta)
        return jnp.clip(from_wavelet_domain(x_0), -1.0, 1.0)

    def _denoised(self, params: Arrays, x_0: jax.Array, t: jax.Array, key: jax.Array, rows: jax.Array) -> jax.Array:
        """x_0 noised to the times t, by noise keyed by row, and denoised in one step."""
        x_t = process.q_sample(self.schedule, x_0, t, normal_by_row(key, rows, x_0.shape[1:]))
        return self.network.apply({"params": params}, x_t, t)

    def _details(self, errors: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
        """Losses by subband and by quarter of the schedule (not a number where the batch had no such time)."""
        quarter = t * QUARTERS // self.schedule.steps
        return {
            **{f"loss/{band}": jnp.mean(errors[:, i]) for i, band in enumerate(SUBBANDS)},
            **{f"loss/quarter_{q + 1}": jnp.mean(errors, where=(quarter == q)[:, None]) for q in range(QUARTERS)},
        }


def make_schedule(name: str, steps: int) -> Schedule:
    """The noise schedule that a configuration names."""
    try:
        return {"linear": linear, "cosine": cosine}[name](steps)
    except KeyError:
        raise UserError(f"diffusion.schedule is {name!r}: use 'linear' or 'cosine'") from None
    except ValueError as error:
        raise UserError(f"diffusion.steps is {steps}: {error}") from error


def remat_levels(remat: str, edge: int, levels: int) -> tuple[bool, ...]:
    """Which levels of a network recompute their activations, by `train.remat`: none, (all) blocks, or above:EDGE.

    Args:
      remat: the policy; "above:16" is the levels of more than 16 voxels along their longest edge.
      edge: the longest of the network's input.
      levels: of the network, each half the resolution of the one before.

    Raises:
      UserError: it is none of these.
    """
    policy, _, limit = remat.partition(":")
    if remat in ("none", "blocks"):
        return (remat == "blocks",) * levels
    if policy != "above" or not limit.isdecimal():
        raise UserError(f"train.remat is {remat!r}: use 'none', 'blocks' or 'above:EDGE', such as 'above:16'")
    return tuple(edge // 2**level > int(limit) for level in range(levels))


def normal_by_row(key: jax.Array, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Standard normal noise [B, *shape], each example's keyed by its row."""
    return keep_split(jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), shape))(rows))
