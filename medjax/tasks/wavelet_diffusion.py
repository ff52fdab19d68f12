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

from medjax.diffusion.objective import Objective
from medjax.diffusion.samplers.loop import NoiseAt, State
from medjax.diffusion.samplers.options import Sampling
from medjax.diffusion.wavelet_domain import (
    LLL_BY_3,
    Scale,
    clamp_in_image_space,
    from_wavelet_domain,
    subband_means,
    threshold_dynamically,
    to_wavelet_domain,
)
from medjax.errors import UserError
from medjax.tasks import denoising
from medjax.tasks.denoising import check_choices, check_labels, check_size, make_objective, make_sampling
from medjax.tasks.networks import make_network
from medjax.wavelets import SUBBANDS

Arrays = Any
Batch = dict[str, jax.Array]


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
        if classes := config.model.get("classes", 0):
            raise UserError(f"model.classes is {classes}, but diffusion on subbands learns no labels: leave it at 0")
        check_labels(0, 0.0, config.sample.label, config.sample.guidance)
        objective = make_objective(config.diffusion)
        scale = tuple(float(value) for value in config.diffusion.subband_scale)
        if len(scale) != len(SUBBANDS) or not all(0 < value < float("inf") for value in scale):
            raise UserError(f"diffusion.subband_scale is {scale}: give {len(SUBBANDS)} positive numbers, LLL to HHH")
        size = check_size(config.data.size)
        out_channels = 8 * (2 if objective.learned_variance else 1)
        network = make_network(config, out_channels, tuple(edge // 2 for edge in size))
        return cls(
            network=network,
            objective=objective,
            size=size,
            subband_scale=scale,
            sampling=make_sampling(config.sample, objective.schedule),
            threshold=config.sample.threshold,
        )

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of a volume must be multiples of: the transform halves them, then the network."""
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
        grads, variables, loss, errors, t = denoising.loss_and_gradients(
            self.objective,
            lambda params, seen, t, key: self.network.apply(
                {"params": params}, seen, t, train=True, rngs={"dropout": key}
            ),
            params,
            variables,
            self._coefficients(batch["image"]),
            batch["row"],
            key,
            subband_means,
        )
        bands = {f"loss/{band}": jnp.mean(errors[:, i]) for i, band in enumerate(SUBBANDS)}
        return grads, variables, {"loss": loss, **bands, **denoising.losses_by_quarter(self.objective, errors, t)}

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Losses of each volume, [B], unweighted, at one fixed time in each quarter of the schedule, with fixed noise."""
        del variables, frozen
        losses = denoising.validation_losses(
            self.objective, self._predict(params), self._coefficients(batch["image"]), batch["row"], key, subband_means
        )
        bands = {f"val_loss/{band}": jnp.mean(losses[..., i], axis=0) for i, band in enumerate(SUBBANDS)}
        return denoising.validation_metrics(losses) | bands

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """The batch noised to a quarter, a half and three quarters of the schedule, and denoised in one step."""
        del variables, frozen
        return denoising.denoised_in_one_step(
            self.objective,
            self._predict(params),
            self._coefficients(batch["image"]),
            batch["row"],
            key,
            lambda x_0: from_wavelet_domain(x_0, self.subband_scale),
        )

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
        state = self.begin(frozen, keys, conditions)
        return self.finish(frozen, self.advance(params, variables, frozen, keys, state, self.steps - 1, -1))

    @property
    def steps(self) -> int:
        """How many steps a sample takes."""
        return self.sampling.schedule(self.objective.schedule).steps

    def begin(self, frozen: Arrays, keys: jax.Array, conditions: Batch | None = None) -> State:
        """Returns where sampling starts from: noise, or volumes with the sampling's `strength` of noise.

        Args:
          frozen: nothing.
          keys: [B].
          conditions: "image" [B, D, H, W, C] in [-1, 1], the volumes; with "other", like it, and "share" [B] in [0, 1],
            what lies between the two. Keys that are all the same then make one smooth way of them.
        """
        del frozen
        schedule, noise_at = self.sampling.schedule(self.objective.schedule), self._noise_at(keys)
        if conditions is None:
            return denoising.first_state(schedule, noise_at)
        x_0 = self._coefficients(conditions["image"])
        other = self._coefficients(conditions["other"]) if "other" in conditions else None
        return denoising.first_state(schedule, noise_at, x_0, other, conditions.get("share"))

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
        noise_at, predict = self._noise_at(keys), self._predict(params)
        return denoising.run_steps(
            self.objective, self.sampling, predict, self._thresholded, noise_at, state, first, end
        )

    def finish(self, frozen: Arrays, state: State) -> jax.Array:
        """The volumes [B, D, H, W, C] in [-1, 1] of a sampler that has taken every step."""
        del frozen
        return jnp.clip(from_wavelet_domain(state.x_t, self.subband_scale), -1.0, 1.0)

    def _noise_at(self, keys: jax.Array) -> NoiseAt:
        return denoising.noise_by_key(keys, (*(edge // 2 for edge in self.size), 8 * self.channels))

    def _coefficients(self, volumes: jax.Array) -> jax.Array:
        return to_wavelet_domain(volumes, self.subband_scale)

    def _predict(self, params: Arrays) -> denoising.Predict:
        """The network's prediction, and its variances if it learned any, from x_t and t."""
        objective = self.objective

        def predict(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array | None]:
            return objective.split(self.network.apply({"params": params}, objective.network_input(x_t, t), t))

        return predict

    def _thresholded(self, x_0: jax.Array) -> jax.Array:
        match self.threshold:
            case "clamp":
                return clamp_in_image_space(x_0, self.subband_scale)
            case "dynamic":
                return threshold_dynamically(x_0, self.subband_scale)
        return x_0
