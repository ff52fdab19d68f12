"""Diffusion on the eight subbands of a 3D Haar transform (WDM, arXiv 2402.19043).

The network sees the noisy coefficients of a volume, LLL divided by 3, and predicts the clean ones, or what else the
objective asks. White noise stays white under an orthonormal transform, so noise is drawn in the wavelet domain directly.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from medjax.diffusion import process, samplers
from medjax.diffusion.interpolation import lerp, slerp
from medjax.diffusion.objective import Objective
from medjax.diffusion.samplers import State
from medjax.diffusion.sampling import Sampling
from medjax.diffusion.wavelet_domain import (
    LLL_BY_3,
    Scale,
    clamp_in_image_space,
    from_wavelet_domain,
    subband_mse,
    threshold_dynamically,
    to_wavelet_domain,
)
from medjax.errors import UserError
from medjax.layers.spatial import keep_split
from medjax.tasks.denoising import check_choices, make_objective, make_sampling, normal_by_row
from medjax.tasks.networks import make_network
from medjax.wavelets import SUBBANDS

Arrays = Any
Batch = dict[str, jax.Array]

QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class WaveletDiffusion:
    """The task.

    Attributes:
      network: maps (coefficients [B, D/2, H/2, W/2, 8C], t [B]) to the prediction, same shape, or 16C channels where
        variances are learned.
      objective: what it is taught.
      sampling: how volumes are drawn.
      size: (D, H, W) of a volume, even.
      channels: C of a volume.
      subband_scale: what LLL .. HHH are divided by.
      threshold: what keeps each estimate of a volume in [-1, 1] on the way: "clamp", "dynamic" or "none".
    """

    network: nn.Module
    objective: Objective
    sampling: Sampling
    size: tuple[int, int, int]
    channels: int = 1
    subband_scale: Scale = LLL_BY_3
    threshold: str = "clamp"

    @classmethod
    def from_config(cls, config: ConfigDict) -> "WaveletDiffusion":
        """The task that a configuration describes (configs/common.py names every key)."""
        check_choices(
            ("sample.threshold", config.sample.threshold, ("clamp", "dynamic", "none")),
        )
        objective = make_objective(config.diffusion)
        scale = tuple(float(value) for value in config.diffusion.subband_scale)
        if len(scale) != len(SUBBANDS) or not all(0 < value < float("inf") for value in scale):
            raise UserError(f"diffusion.subband_scale is {scale}: give {len(SUBBANDS)} positive numbers, LLL to HHH")
        network = make_network(config, out_channels=8 * (2 if objective.learned_variance else 1))
        return cls(
            network=network,
            objective=objective,
            size=tuple(config.data.size),
            subband_scale=scale,
            sampling=make_sampling(config.sample, objective.schedule),
            threshold=config.sample.threshold,
        )

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """What D, H and W of a volume must be multiples of: the transform halves them, then the network."""
        multiple = self.network.size_multiple
        return tuple(2 * edge for edge in multiple)

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]:
        """Float32 parameters, and the objective's variables, for volumes like `batch["image"]`, [B, D, H, W, C]."""
        coefficients = self._coefficients(batch["image"][:1])
        params = self.network.init(key, coefficients, jnp.zeros((1,), jnp.int32))["params"]
        return params, self.objective.init()

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, dict[str, jax.Array]]:
        """Gradient of the mean over examples and subbands of the weighted squared error, at one random time an example.

        Args:
          batch: "image" [B, D, H, W, C] in [-1, 1], float32, and "row" [B], each example's place in the whole batch, which keys
            its randomness: neither devices nor microbatches change it.
        """
        del frozen, step
        t_key, noise_key, dropout_key = jax.random.split(key, 3)
        objective, rows = self.objective, batch["row"]
        t, time_weights = objective.draw_times(variables, t_key, rows)
        x_0 = self._coefficients(batch["image"])
        noise = normal_by_row(noise_key, rows, x_0.shape[1:])

        def loss_of(params: Arrays) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            x_t = objective.q_sample(x_0, t, noise)
            output = self.network.apply(
                {"params": params},
                objective.network_input(x_t, t),
                t,
                train=True,
                rngs={"dropout": jax.random.fold_in(dropout_key, rows[0])},
            )
            prediction, v = objective.split(output)
            errors = subband_mse(prediction, objective.target(x_0, t, noise))  # [B, 8]
            losses = weighted(errors, objective.weights(t))
            if v is not None:
                losses += objective.bound(x_0, x_t, t, prediction, v)[:, None]
            return jnp.mean(weighted(losses, time_weights)), (errors, jnp.mean(losses, axis=1))

        (loss, (errors, losses)), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return grads, objective.remember(variables, t, losses), {"loss": loss, **self._details(errors, t)}

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Losses of each volume, [B], unweighted, at one fixed time in each quarter of the schedule, with fixed noise."""
        del variables, frozen
        x_0 = self._coefficients(batch["image"])
        # The golden ratio spreads the times of successive volumes evenly over the quarter.
        within = jnp.mod(batch["row"].astype(jnp.float32) * 0.6180339887, 1.0)

        def errors_in(quarter: jax.Array) -> jax.Array:
            t = ((quarter + within) / QUARTERS * self.objective.schedule.steps).astype(jnp.int32)
            noise = normal_by_row(jax.random.fold_in(key, quarter), batch["row"], x_0.shape[1:])
            prediction, _ = self._predict(params, self.objective.q_sample(x_0, t, noise), t)
            return subband_mse(prediction, self.objective.target(x_0, t, noise))

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
        x_0 = self._coefficients(batch["image"])

        def volumes_from(quarter: jax.Array) -> jax.Array:
            t = jnp.full(batch["row"].shape, quarter * self.objective.schedule.steps // QUARTERS, jnp.int32)
            noise = normal_by_row(jax.random.fold_in(key, quarter), batch["row"], x_0.shape[1:])
            x_t = self.objective.q_sample(x_0, t, noise)
            prediction, _ = self._predict(params, x_t, t)
            return from_wavelet_domain(self.objective.x_0_from(x_t, t, prediction), self.subband_scale)

        volumes = jax.lax.map(volumes_from, jnp.arange(1, QUARTERS))
        return {f"denoised_from_{i + 1}_of_{QUARTERS}": volume for i, volume in enumerate(volumes)}

    def sample(
        self, params: Arrays, variables: Arrays, frozen: Arrays, keys: jax.Array, conditions: Batch | None = None
    ) -> jax.Array:
        """Draws one volume for each key: `begin`, every step, `finish`.

        Args:
          keys: [B] keys; volume i depends on the parameters, keys[i] and conditions[i] alone.
          conditions: as `begin` takes them.

        Returns:
          [B, D, H, W, C] float32 in [-1, 1].
        """
        state = self.begin(keys, conditions)
        return self.finish(self.advance(params, variables, frozen, keys, state, self.steps - 1, -1))

    @property
    def steps(self) -> int:
        """How many steps a sample takes."""
        return self.sampling.schedule(self.objective.schedule).steps

    def begin(self, keys: jax.Array, conditions: Batch | None = None) -> State:
        """Where sampling starts from: noise, or volumes with the sampling's `strength` of noise.

        Args:
          keys: [B].
          conditions: "image" [B, D, H, W, C] in [-1, 1], the volumes; with "other", like it, and "share" [B] in [0, 1],
            what lies between the two. Keys that are all the same then make one smooth way of them.
        """
        schedule = self.sampling.schedule(self.objective.schedule)
        steps, noise_at = schedule.steps, self._noise_at(keys)
        noise = noise_at(steps)  # the sampler itself asks for noise 0 .. steps - 1
        if conditions is None:
            return samplers.first_state(noise)
        x_0 = self._coefficients(conditions["image"])
        if "other" in conditions:
            x_0 = lerp(x_0, self._coefficients(conditions["other"]), conditions["share"])
            noise = slerp(noise, noise_at(steps + 1), conditions["share"])
        t = samplers.whole_time(x_0, steps - 1)
        return samplers.first_state(process.q_sample(schedule, x_0, t, noise))

    def advance(
        self,
        params: Arrays,
        variables: Arrays,
        frozen: Arrays,
        keys: jax.Array,
        state: State,
        first: int | jax.Array,
        end: int | jax.Array,
    ) -> State:
        """Takes the steps first, first - 1, ..., down to `end` exclusive, of `steps - 1` down to 0."""
        del variables, frozen
        schedule = self.sampling.schedule(self.objective.schedule)
        has_variance = self.objective.learned_variance and self.sampling.sampler == "ancestral"

        def denoise(x_t: jax.Array, t: jax.Array) -> jax.Array | tuple[jax.Array, jax.Array]:
            prediction, v = self._predict(params, x_t, t)
            x_0 = self._thresholded(self.objective.x_0_from(x_t, t, prediction))
            return (x_0, v) if has_variance else x_0

        step = self.sampling.step(schedule, has_variance)
        return samplers.walk(step, denoise, self._noise_at(keys), state, first, end)

    def finish(self, state: State) -> jax.Array:
        """The volumes [B, D, H, W, C] in [-1, 1] of a sampler that has taken every step."""
        return jnp.clip(from_wavelet_domain(state.x_t, self.subband_scale), -1.0, 1.0)

    def _noise_at(self, keys: jax.Array) -> samplers.NoiseAt:
        shape = (*(edge // 2 for edge in self.size), 8 * self.channels)

        def noise_at(i: jax.Array | int) -> jax.Array:
            return keep_split(jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, i), shape))(keys))

        return noise_at

    def _coefficients(self, volumes: jax.Array) -> jax.Array:
        return to_wavelet_domain(volumes, self.subband_scale)

    def _predict(self, params: Arrays, x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """The network's prediction, and its variances if it learned any."""
        return self.objective.split(self.network.apply({"params": params}, self.objective.network_input(x_t, t), t))

    def _thresholded(self, x_0: jax.Array) -> jax.Array:
        match self.threshold:
            case "clamp":
                return clamp_in_image_space(x_0, self.subband_scale)
            case "dynamic":
                return threshold_dynamically(x_0, self.subband_scale)
        return x_0

    def _details(self, errors: jax.Array, t: jax.Array) -> dict[str, jax.Array]:
        """Losses by subband and by quarter of the schedule (not a number where the batch had no such time), unweighted."""
        quarter = t * QUARTERS // self.objective.schedule.steps
        return {
            **{f"loss/{band}": jnp.mean(errors[:, i]) for i, band in enumerate(SUBBANDS)},
            **{f"loss/quarter_{q + 1}": jnp.mean(errors, where=(quarter == q)[:, None]) for q in range(QUARTERS)},
        }


def weighted(errors: jax.Array, weights: jax.Array | None) -> jax.Array:
    """Errors [B, 8], each example's times its weight; None: as they are."""
    return errors if weights is None else errors * weights[:, None]
