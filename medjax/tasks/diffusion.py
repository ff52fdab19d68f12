"""Diffusion: a network learns to tell a volume from noise, in the space that a codec makes of volumes.

The wavelet diffusion of WDM (arXiv 2402.19043), Medical Diffusion's on latents (arXiv 2211.03364) and the 3D DDPM on voxels
are this task with one codec or another (medjax/codecs).
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from medjax.codecs.codec import THRESHOLDS, Codec
from medjax.codecs.haar_of_latents import HaarOfLatents
from medjax.codecs.latents import Latents
from medjax.diffusion.guidance import Predict, estimate_of, guided, thresholded
from medjax.diffusion.objective import Objective
from medjax.diffusion.samplers.loop import NoiseAt, State
from medjax.diffusion.samplers.options import Sampling
from medjax.layers.conditions import Condition, Told, completed
from medjax.layers.spatial import constrain_volume
from medjax.task import Arrays, Batch, Metrics
from medjax.tasks import denoising
from medjax.tasks.checks import check_choices
from medjax.tasks.codec_choice import make_codec, networks_for
from medjax.tasks.diffusion_choices import check_guidance, make_conditions, make_objective, make_sampling
from medjax.tasks.networks import make_network

WITHHOLD_KEY = 3  # of a step's key, and those after it: 0 .. 2 are the times', the noise's and the dropout's


class SamplerState(NamedTuple):
    """State of the sampling loop.

    Attributes:
      solver: state of the solver.
      told: what the network is told of each example, by the condition's name.
    """

    solver: State
    told: Batch


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """The task.

    Attributes:
      codec: way from volumes to x_0 and back.
      network: module that maps (x_t [B, *codec.shape], t [B], told) to the prediction, same shape, or twice the channels
        where variances are learned.
      objective: what the network is taught.
      sampling: way in which volumes are drawn.
      threshold: what keeps each estimate of x_0 in the range of the data on the way: "clamp", "dynamic" or "none".
      conditions: what the network is told besides x_t and t.
      guidance: scale of classifier-free guidance: 1 is the conditional prediction, 0 the unconditional one, above 1
        extrapolates.
    """

    codec: Codec
    network: nn.Module
    objective: Objective
    sampling: Sampling
    threshold: str = "clamp"
    conditions: tuple[Condition, ...] = ()
    guidance: float = 1.0

    generates: ClassVar[bool] = True
    averaged: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_config(cls, config: ConfigDict, autoencoder: ConfigDict | None = None) -> "Diffusion":
        """Makes the task that a configuration describes (configs/common.py names every key).

        Args:
          config: configuration of the run.
          autoencoder: that of the run in `latents.vqgan`, of a diffusion on latents.

        Raises:
          UserError: naming the key that cannot work.
        """
        check_choices(
            ("model.network", config.model.network, networks_for(config)),
            ("sample.threshold", config.sample.threshold, THRESHOLDS),
        )
        conditions = make_conditions(config)
        check_guidance(conditions, config.sample.label, config.sample.guidance)
        objective = make_objective(config.diffusion)
        codec = make_codec(config, autoencoder)
        *size, channels = codec.shape
        out_channels = channels * (2 if objective.learned_variance else 1)
        return cls(
            codec=codec,
            network=make_network(config, out_channels, tuple(size), conditions),
            objective=objective,
            sampling=make_sampling(config.sample, objective.schedule),
            threshold=config.sample.threshold,
            conditions=conditions,
            guidance=config.sample.guidance,
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """Names what it takes of a batch: volumes, or what was prepared of them, and what the network is told."""
        return (*self.codec.reads, *(each.name for each in self.conditions))

    def told_spec(self, count: int) -> Batch:
        """The shapes of the conditions' values of `count` examples."""
        return {each.name: each.spec(count) for each in self.conditions}

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Names what the codec reads and nobody trains here."""
        return ("vqgan",) if self.latents else ()

    @property
    def weights(self) -> str | None:
        """Names the kind of published file that the codec's model has."""
        return self.codec.weights

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of a volume must be multiples of: the codec divides them, then the network."""
        return tuple(a * b for a, b in zip(self.codec.size_multiple, self.network.size_multiple, strict=True))

    @property
    def latents(self) -> Latents | None:
        """Returns the codec through which an autoencoder is read; None where none is."""
        match self.codec:
            case Latents():
                return self.codec
            case HaarOfLatents():
                return self.codec.latents
        return None

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]:
        """Makes float32 parameters of the network, and the objective's variables; of the batch nothing matters."""
        del batch
        x_t = jnp.zeros((1, *self.codec.shape), jnp.float32)
        params = self.network.init(key, x_t, jnp.zeros((1,), jnp.int32))["params"]
        return params, self.objective.init()

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, Metrics]:
        """Takes the gradient of the mean over examples and parts of the weighted error, at one random time an example.

        Args:
          params, variables: of the model.
          frozen: what the codec reads.
          batch: "image" [B, D, H, W, C] in [-1, 1], float32, or its "latents"; "row" [B], each example's place in the whole
            batch, which keys its randomness: neither devices nor microbatches change it; and the conditions' values, [B, ...].
          key: of the step.
          step: its number.
        """
        del step
        rows = batch["row"]
        told = completed(self.conditions, batch, rows)
        for n, each in enumerate(self.conditions):
            kept = keep_by_row(jax.random.fold_in(key, WITHHOLD_KEY + n), rows, 1 - each.dropout)
            told[each.name] = each.withheld(told[each.name], kept)
        grads, variables, loss, errors, t = denoising.loss_and_gradients(
            self.objective,
            lambda params, x_t, t, key: self.network.apply(
                {"params": params}, x_t, t, told, train=True, rngs={"dropout": key}
            ),
            params,
            variables,
            self.codec.encode(frozen, batch),
            rows,
            key,
            self.codec.part_means,
        )
        by_part = {f"loss/{part}": jnp.mean(errors[:, i]) for i, part in enumerate(self.codec.loss_parts)}
        return grads, variables, {"loss": loss, **by_part, **denoising.losses_by_quarter(self.objective, errors, t)}

    def validate(self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array) -> Metrics:
        """Returns losses of each volume, [B], unweighted, at one fixed time in each quarter of the schedule, with fixed noise."""
        del variables
        x_0, predict = self.codec.encode(frozen, batch), self._predict_told(params, batch)
        losses = denoising.validation_losses(self.objective, predict, x_0, batch["row"], key, self.codec.part_means)
        parts = self.codec.loss_parts
        by_part = {f"val_loss/{part}": jnp.mean(losses[..., i], axis=0) for i, part in enumerate(parts)}
        return denoising.validation_metrics(losses) | by_part

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Shows the batch noised to a quarter, a half and three quarters of the schedule and denoised in one step.

        Where latents are learned, also as the autoencoder makes it: no sample can look better.
        """
        del variables
        x_0, predict = self.codec.encode(frozen, batch), self._predict_told(params, batch)
        decode = functools.partial(self._decoded, frozen)
        reconstructed = {"reconstructed": decode(x_0)} if self.latents else {}
        return reconstructed | denoising.denoised_in_one_step(self.objective, predict, x_0, batch["row"], key, decode)

    def sample(
        self,
        params: Arrays,
        variables: Arrays,
        frozen: Arrays,
        keys: jax.Array,
        told: Told | None = None,
        start: Batch | None = None,
    ) -> jax.Array:
        """Draws one volume for each key: `begin`, every step, `finish`.

        Args:
          params, variables, frozen: of the model.
          keys: [B] keys; volume i depends on the parameters, keys[i], told[i] and start[i] alone.
          told, start: as `begin` takes them.

        Returns:
          [B, D, H, W, C] float32 in [-1, 1].
        """
        state = self.begin(frozen, keys, told, start)
        return self.finish(frozen, self.advance(params, variables, frozen, keys, state, self.steps - 1, -1))

    @property
    def steps(self) -> int:
        """Returns how many steps a sample takes."""
        return self.sampling.schedule(self.objective.schedule).steps

    def begin(
        self, frozen: Arrays, keys: jax.Array, told: Told | None = None, start: Batch | None = None
    ) -> SamplerState:
        """Returns where sampling starts from: noise, or volumes with the sampling's `strength` of noise.

        Args:
          frozen: what the codec reads.
          keys: [B].
          told: values of conditions by name, [B, ...]; what is missing is left open.
          start: "image" [B, D, H, W, C] in [-1, 1], volumes to start from; with "other", like it, and "share" [B] in [0, 1],
            what lies between the two. Keys that are all the same then make one smooth way of them.
        """
        schedule, noise_at, start = self.sampling.schedule(self.objective.schedule), self._noise_at(keys), start or {}
        ends = [self.codec.encode(frozen, {"image": start[name]}) for name in ("image", "other") if name in start]
        solver = denoising.first_state(schedule, noise_at, *ends, share=start.get("share"))
        return SamplerState(solver, completed(self.conditions, told or {}, solver.x_t))

    def advance(
        self,
        params: Arrays,
        variables: Arrays,
        frozen: Arrays,
        keys: jax.Array,
        state: SamplerState,
        first: int | jax.Array,
        end: int | jax.Array,
    ) -> SamplerState:
        """Takes the steps first, first - 1, ..., down to `end` exclusive, of `steps - 1` down to 0."""
        del variables, frozen
        predict = guided(
            self._predict(params), lambda x: completed(self.conditions, {}, x), self.guidance, constrain_volume
        )
        estimate = thresholded(estimate_of(self.objective, predict, state.told), self._thresholded)
        solver = denoising.run_steps(
            self.objective, self.sampling, estimate, self._noise_at(keys), state.solver, first, end
        )
        return SamplerState(solver, state.told)

    def finish(self, frozen: Arrays, state: SamplerState) -> jax.Array:
        """Returns the volumes [B, D, H, W, C] in [-1, 1] of a sampler that has taken every step."""
        return self._decoded(frozen, state.solver.x_t)

    def _decoded(self, frozen: Arrays, x_0: jax.Array) -> jax.Array:
        return jnp.clip(self.codec.decode(frozen, x_0), -1.0, 1.0)

    def _thresholded(self, x_0: jax.Array) -> jax.Array:
        return self.codec.threshold(self.threshold, x_0)

    def _noise_at(self, keys: jax.Array) -> NoiseAt:
        return denoising.noise_by_key(keys, self.codec.shape)

    def _predict(self, params: Arrays) -> Predict:
        """Makes the network's prediction, and its variances if it learned any, a function of x_t, t and what it is told."""
        objective = self.objective

        def predict(x_t: jax.Array, t: jax.Array, told: Told) -> tuple[jax.Array, jax.Array | None]:
            return objective.split(self.network.apply({"params": params}, objective.network_input(x_t, t), t, told))

        return predict

    def _predict_told(self, params: Arrays, batch: Batch) -> denoising.Predict:
        """Makes the same a function of x_t and t alone, told what the batch says."""
        predict, told = self._predict(params), completed(self.conditions, batch, batch["row"])
        return lambda x_t, t: predict(x_t, t, told)


def keep_by_row(key: jax.Array, rows: jax.Array, share: float) -> jax.Array:
    """Decides, by row, which examples [B] are told a condition: this share of them."""
    return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(rows) < share
