"""Diffusion on the latents of a VQ-GAN (Medical Diffusion, arXiv 2211.03364).

The network sees latents as they are before quantisation, scaled to [-1, 1]. What it draws is unscaled, quantised and
decoded. The VQ-GAN is only read, so what comes out of its encoder may as well have been prepared once.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from medjax.diffusion.objective import Objective
from medjax.diffusion.samplers.loop import State
from medjax.diffusion.samplers.options import Sampling
from medjax.diffusion.thresholds import threshold_dynamically
from medjax.layers.embeddings import unknown_labels
from medjax.layers.spatial import constrain_volume
from medjax.tasks import denoising
from medjax.tasks.denoising import check_choices, check_labels, check_size, make_objective, make_sampling
from medjax.tasks.networks import make_network
from medjax.tasks.vqgan import VQGAN

Arrays = Any
Batch = dict[str, jax.Array]

LABEL_KEY = 3  # of a step's key: 0 .. 2 are the times', the noise's and the dropout's
DYNAMIC_SHARE = 0.9  # of a latent's values that a dynamic threshold leaves alone, as published


class SamplerState(NamedTuple):
    """Latents on their way.

    Attributes:
      sampler: where the sampler is.
      label: [B] int32, what they are to be; -1 where that is left open.
    """

    sampler: State
    label: jax.Array


@dataclasses.dataclass(frozen=True)
class LatentDiffusion:
    """The task. What it reads, `frozen`, is {"vqgan": {"generator", "codebook"}, "low", "high"}: latents from low to high,
    a number or one a channel, are scaled to [-1, 1]. A VQ-GAN with batch norms has its "batch_stats" in there too.

    Attributes:
      network: maps (latents [B, d, h, w, c], t [B]) to the prediction, same shape, or 2c channels where variances are
        learned; of one with labels also `label=` [B].
      objective: what it is taught.
      sampling: how latents are drawn.
      vqgan: between volumes and latents.
      size: (D, H, W) of a volume.
      downsample: of D, H and W by the VQ-GAN.
      latent_channels: c.
      threshold: what keeps each estimate of scaled latents in [-1, 1] on the way: "clamp", "dynamic" or "none".
      classes: labels that the network can be told; 0: none.
      label_dropout: share of the examples whose label is withheld in training.
      guidance: how far from no label at all towards the wanted one, and beyond, predictions are moved in sampling; 1: to it.
    """

    network: nn.Module
    objective: Objective
    sampling: Sampling
    vqgan: VQGAN
    size: tuple[int, int, int]
    downsample: tuple[int, int, int]
    latent_channels: int
    threshold: str = "clamp"
    classes: int = 0
    label_dropout: float = 0.1
    guidance: float = 1.0

    @classmethod
    def from_config(cls, config: ConfigDict, vqgan_config: ConfigDict) -> "LatentDiffusion":
        """The task that a configuration describes (configs/common.py names every key).

        Args:
          config: the run's.
          vqgan_config: of the run in `latents.vqgan`.

        Raises:
          UserError: naming the key that cannot work.
        """
        model, sample = config.model, config.sample
        check_choices(
            ("model.network", model.network, ("factorized_unet", "unet")),
            ("sample.threshold", sample.threshold, ("clamp", "dynamic", "none")),
        )
        check_labels(model.classes, model.label_dropout, sample.label, sample.guidance)
        size, downsample = check_size(config.data.size), tuple(vqgan_config.model.downsample)
        latent_size = tuple(edge // factor for edge, factor in zip(size, downsample, strict=True))
        latent_channels = vqgan_config.model.embedding_channels
        vqgan_config = vqgan_config.copy_and_resolve_references()
        vqgan_config.train.remat = "none"  # nothing is differentiated through it
        objective = make_objective(config.diffusion)
        out_channels = latent_channels * (2 if objective.learned_variance else 1)
        return cls(
            network=make_network(config, out_channels, latent_size),
            objective=objective,
            sampling=make_sampling(sample, objective.schedule),
            vqgan=VQGAN.from_config(vqgan_config).with_tile(config.latents.tile),
            size=size,
            downsample=downsample,
            latent_channels=latent_channels,
            threshold=sample.threshold,
            classes=model.classes,
            label_dropout=model.label_dropout,
            guidance=sample.guidance,
        )

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of a volume must be multiples of: the VQ-GAN divides them, then the network."""
        return tuple(a * b for a, b in zip(self.downsample, self.network.size_multiple, strict=True))

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """(d, h, w) of a volume's latents."""
        return tuple(edge // factor for edge, factor in zip(self.size, self.downsample, strict=True))

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]:
        """Float32 parameters of the network, and the objective's variables; of the batch nothing matters."""
        del batch
        latents = jnp.zeros((1, *self.latent_size, self.latent_channels), jnp.float32)
        params = self.network.init(key, latents, jnp.zeros((1,), jnp.int32))["params"]
        return params, self.objective.init()

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, dict[str, jax.Array]]:
        """Gradient of the mean over examples and latents of the weighted loss, at one random time an example.

        Args:
          batch: "image" [B, D, H, W, 1] in [-1, 1], float32, or its "latents" [B, d, h, w, c]; "row" [B], each example's
            place in the whole batch, which keys its randomness; with classes also "label" [B], -1 where it is not known.
        """
        del step
        rows, told = batch["row"], self._told(batch)
        if told:
            kept = keep_labels(jax.random.fold_in(key, LABEL_KEY), rows, 1 - self.label_dropout)
            told = {"label": jnp.where(kept, told["label"], -1)}
        grads, variables, loss, errors, t = denoising.loss_and_gradients(
            self.objective,
            lambda params, seen, t, key: self.network.apply(
                {"params": params}, seen, t, train=True, rngs={"dropout": key}, **told
            ),
            params,
            variables,
            self._scaled_latents(frozen, batch),
            rows,
            key,
            mean_of_each,
        )
        return grads, variables, {"loss": loss, **denoising.losses_by_quarter(self.objective, errors, t)}

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Losses of each example, [B], unweighted, at one fixed time in each quarter of the schedule, with fixed noise."""
        del variables
        predict, latents = self._predict(params, self._told(batch)), self._scaled_latents(frozen, batch)
        return denoising.validation_metrics(
            denoising.validation_losses(self.objective, predict, latents, batch["row"], key, mean_of_each)
        )

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """Shows the batch as the VQ-GAN makes it, and noised to a quarter, a half and three quarters and denoised at once."""
        del variables
        predict, latents = self._predict(params, self._told(batch)), self._scaled_latents(frozen, batch)
        decoded = functools.partial(self._decoded, frozen)
        denoised = denoising.denoised_in_one_step(self.objective, predict, latents, batch["row"], key, decoded)
        return {"reconstructed": decoded(latents), **denoised}

    def sample(
        self, params: Arrays, variables: Arrays, frozen: Arrays, keys: jax.Array, conditions: Batch | None = None
    ) -> jax.Array:
        """Draws one volume for each key: `begin`, every step, `finish`.

        Args:
          keys: [B] keys; volume i depends on the parameters, keys[i] and conditions[i] alone.
          conditions: as `begin` takes them.

        Returns:
          [B, D, H, W, 1] float32 in [-1, 1].
        """
        state = self.begin(frozen, keys, conditions)
        return self.finish(frozen, self.advance(params, variables, frozen, keys, state, self.steps - 1, -1))

    @property
    def steps(self) -> int:
        """How many steps a sample takes."""
        return self.sampling.schedule(self.objective.schedule).steps

    def begin(self, frozen: Arrays, keys: jax.Array, conditions: Batch | None = None) -> SamplerState:
        """Returns where sampling starts from: noise, or the latents of volumes with the sampling's `strength` of noise.

        Args:
          keys: [B].
          conditions: "label" [B] int32, what is wanted, -1 for anything. "image" [B, D, H, W, 1] in [-1, 1], volumes to
            start from; with "other", like it, and "share" [B] in [0, 1], what lies between the latents of the two.
        """
        conditions = conditions or {}
        schedule, noise_at = self.sampling.schedule(self.objective.schedule), self._noise_at(keys)
        starts = [self._scaled_latents(frozen, {"image": conditions[n]}) for n in ("image", "other") if n in conditions]
        state = denoising.first_state(schedule, noise_at, *starts, share=conditions.get("share"))
        return SamplerState(state, conditions.get("label", unknown_labels(state.x_t)))

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
        predict = self._predict(params, {"label": state.label} if self.classes else {}, self.guidance)
        sampler = denoising.run_steps(
            self.objective, self.sampling, predict, self._thresholded, self._noise_at(keys), state.sampler, first, end
        )
        return SamplerState(sampler, state.label)

    def finish(self, frozen: Arrays, state: SamplerState) -> jax.Array:
        """The volumes [B, D, H, W, 1] in [-1, 1] of a sampler that has taken every step."""
        return self._decoded(frozen, state.sampler.x_t)

    def codebook_range(self, codebook: Arrays) -> tuple[jax.Array, jax.Array]:
        """The least and the greatest number in the codebook, each [c]: `low` and `high` as published."""
        embeddings = codebook["embeddings"]
        return tuple(jnp.full((self.latent_channels,), extreme(embeddings)) for extreme in (jnp.min, jnp.max))

    def _scaled_latents(self, frozen: Arrays, batch: Batch) -> jax.Array:
        """Returns the latents of the batch's volumes, in [-1, 1] where latents lie between `low` and `high`."""
        if "latents" in batch:
            latents = batch["latents"]
        else:
            vqgan = frozen["vqgan"]
            latents = self.vqgan.encode(vqgan["generator"], batch["image"], vqgan.get("batch_stats"))
        return jax.lax.stop_gradient(constrain_volume(scaled(latents, frozen["low"], frozen["high"])))

    def _decoded(self, frozen: Arrays, x_0: jax.Array) -> jax.Array:
        """The volumes of scaled latents."""
        vqgan = frozen["vqgan"]
        quantized = self.vqgan.quantize(vqgan["codebook"], unscaled(x_0, frozen["low"], frozen["high"]))

        return jnp.clip(self.vqgan.decode(vqgan["generator"], quantized, vqgan.get("batch_stats")), -1.0, 1.0)

    def _told(self, batch: Batch) -> Batch:
        """Returns what the network is told of the batch besides the time."""
        return {"label": batch.get("label", unknown_labels(batch["row"]))} if self.classes else {}

    def _noise_at(self, keys: jax.Array) -> Callable[[jax.Array], jax.Array]:
        return denoising.noise_by_key(keys, (*self.latent_size, self.latent_channels))

    def _predict(self, params: Arrays, told: Batch, guidance: float = 1.0) -> denoising.Predict:
        """The network's prediction, and its variances if it learned any, from x_t and t; guided if there are labels."""
        objective = self.objective

        def predict(x_t: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array | None]:
            seen = objective.network_input(x_t, t)
            if not told or guidance == 1:
                return objective.split(self.network.apply({"params": params}, seen, t, **told))
            # Each example beside itself without its label, so that devices which share a batch keep what they have.
            label = jnp.stack([told["label"], unknown_labels(seen)], axis=1).reshape(-1)
            seen, t = (jnp.repeat(array, 2, axis=0) for array in (seen, t))
            output = self.network.apply({"params": params}, constrain_volume(seen), t, label=label)
            output = output.reshape(-1, 2, *output.shape[1:])
            (prediction, v), (free, _) = (objective.split(output[:, i]) for i in (0, 1))
            # Classifier-free guidance (arXiv 2207.12598), eq. 6, whose w is one less.
            return constrain_volume(free + guidance * (prediction - free)), v

        return predict

    def _thresholded(self, x_0: jax.Array) -> jax.Array:
        match self.threshold:
            case "clamp":
                return jnp.clip(x_0, -1, 1)
            case "dynamic":
                return threshold_dynamically(x_0, DYNAMIC_SHARE)
        return x_0


def scaled(latents: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Latents [..., c] with what lies from low to high, a number or [c], brought to [-1, 1]."""
    return (latents - low) / (high - low) * 2 - 1


def unscaled(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """The inverse of `scaled`."""
    return (x + 1) / 2 * (high - low) + low


def mean_of_each(values: jax.Array) -> jax.Array:
    """[B, ...] to [B, 1]."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))[:, None]


def keep_labels(key: jax.Array, rows: jax.Array, share: float) -> jax.Array:
    """Decides, by row, which examples [B] are told their label: this share of them."""
    return jax.vmap(lambda row: jax.random.uniform(jax.random.fold_in(key, row)))(rows) < share
