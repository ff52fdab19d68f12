"""The autoencoder of Medical Diffusion (arXiv 2211.03364), a 3D VQ-GAN there: volumes to latents and back.

It is taught by what it loses of a volume, by how a random slice looks to VGG16, and by two discriminators, of that slice and
of the volume, that learn at the same time. A bottleneck between encoder and decoder keeps the latents simple: a codebook,
which makes it a VQ-GAN, or the KL divergence from a normal distribution, as in latent diffusion (arXiv 2112.10752).
"""

import dataclasses
import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from ml_collections import ConfigDict

from medjax.errors import UserError
from medjax.layers.spatial import FILLS, constrain_volume
from medjax.metrics.psnr import psnr
from medjax.models.discriminators import PatchDiscriminator
from medjax.models.perceptual import LPIPS, SMALLEST_SLICE
from medjax.models.tiling import in_tiles
from medjax.models.vqgan import Decoder, Encoder, strides_by_level
from medjax.tasks.adversarial import KINDS, Adversary, Judgement
from medjax.tasks.bottlenecks.bottleneck import Bottleneck
from medjax.tasks.bottlenecks.codebook import Codebook
from medjax.tasks.bottlenecks.kl import KL
from medjax.tasks.checks import check_choices, check_size
from medjax.tasks.lowering_choice import one_lowering
from medjax.tasks.networks import remat_resolutions
from medjax.tasks.slices import random_slices, take_slices

Arrays = Any
Batch = dict[str, jax.Array]

BOTTLENECKS = ("codebook", "kl")  # values of model.bottleneck


class Chances(NamedTuple):
    """All that is random in a training step.

    Attributes:
      slices: [B], which D each volume's slice has.
      bottleneck: what its `draw` gives.
    """

    slices: jax.Array
    bottleneck: Any


class Outputs(NamedTuple):
    """Holds what a forward pass gives the losses, and so where gradients come back from.

    Attributes:
      reconstruction: [B, D, H, W, C].
      slices: [B, H, W, C], one of each.
      bottleneck: the bottleneck's loss, weighed.
    """

    reconstruction: jax.Array
    slices: jax.Array
    bottleneck: jax.Array


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """The task. Its parameters are {"generator": {"encoder", "decoder"}, "discriminator": {"image", "volume"}}.

    `variables` hold the bottleneck's and "batch_stats"; `frozen` holds "perceptual", the weights of LPIPS, or is empty:
    then nothing is compared through VGG16.

    Attributes:
      encoder, decoder: of the generator.
      bottleneck: between them.
      discriminator: the network of both, each with its own parameters.
      adversary: how they are weighed and when they begin.
      size: (D, H, W) of a volume.
      l1: weight of the mean absolute difference.
      perceptual: of LPIPS.
      tile: (D, H, W) voxels that `encode` and `decode` work on at a time; None: the whole volume.
    """

    encoder: Encoder
    bottleneck: Bottleneck
    decoder: Decoder
    discriminator: PatchDiscriminator
    adversary: Adversary
    size: tuple[int, int, int]
    l1: float = 4.0
    perceptual: float = 4.0
    tile: tuple[int, int, int] | None = None

    generates: ClassVar[bool] = False  # it only encodes and decodes
    averaged: ClassVar[bool] = False  # codebook and batch statistics are of the parameters, not of their average
    parts: ClassVar[tuple[str, ...]] = ("generator", "discriminator")
    reads: ClassVar[tuple[str, ...]] = ("image",)
    pretrained: ClassVar[tuple[str, ...]] = ("perceptual",)
    weights: ClassVar[str | None] = "medical_vqgan"

    @classmethod
    def from_config(cls, config: ConfigDict) -> "Autoencoder":
        """The task that a configuration describes (configs/common.py names every key).

        Raises:
          UserError: naming the key that cannot work.
        """
        model, losses, train = config.model, config.losses, config.train
        check_choices(
            ("model.norm", model.norm, ("group", "batch")),
            ("model.padding", model.padding, tuple(FILLS)),
            ("model.bottleneck", model.bottleneck, BOTTLENECKS),
            ("losses.discriminator", losses.discriminator, KINDS),
            ("train.dtype", train.dtype, ("float32", "bfloat16")),
        )
        lowering = one_lowering(train)
        size, downsample = check_size(config.data.size), tuple(model.downsample)
        try:
            levels = len(strides_by_level(downsample))
        except ValueError as error:
            raise UserError(f"model.downsample is {downsample}: {error}") from error
        widths = [model.base_channels * 2 ** (level + 1) for level in range(levels)]
        if model.norm == "group" and any(width % model.groups for width in widths):
            raise UserError(f"model.groups is {model.groups}: it must divide every width, {widths}")
        for key in ("codes", "embedding_channels", "discriminator_channels", "discriminator_layers"):
            if model[key] < 1:
                raise UserError(f"model.{key} is {model[key]}: use 1 or more")
        if not 0 <= model.codebook_decay < 1:
            raise UserError(f"model.codebook_decay is {model.codebook_decay}: use 0 to less than 1, such as 0.99")
        if losses.perceptual_weights and losses.perceptual > 0 and min(size[1:]) < SMALLEST_SLICE:
            raise UserError(
                f"data.size is {size}: losses.perceptual compares slices of {SMALLEST_SLICE} voxels or more an edge; "
                "make H and W larger or set losses.perceptual to 0"
            )
        both = {
            "base_channels": model.base_channels,
            "downsample": downsample,
            "norm": model.norm,
            "groups": model.groups,
            "dtype": jnp.dtype(train.dtype),
            "remat": remat_resolutions(train.remat, max(size), levels + 1),
            "lowering": lowering,
        }
        bottleneck = make_bottleneck(model)
        return cls(
            encoder=Encoder(out_channels=bottleneck.encoder_channels, padding=model.padding, **both),
            bottleneck=bottleneck,
            decoder=Decoder(**both),
            discriminator=PatchDiscriminator(
                model.discriminator_channels, model.discriminator_layers, jnp.dtype(train.dtype), lowering
            ),
            adversary=Adversary(
                image=losses.image_gan,
                volume=losses.volume_gan,
                features=losses.gan_features,
                kind=losses.discriminator,
                start=losses.discriminator_start,
                ramp=losses.discriminator_ramp,
                adaptive=losses.adaptive_weight,
            ),
            size=size,
            l1=losses.l1,
            perceptual=losses.perceptual,
        )

    @property
    def downsample(self) -> tuple[int, int, int]:
        """How many voxels a latent stands for along D, H and W."""
        return self.encoder.downsample

    @property
    def size_multiple(self) -> tuple[int, int, int]:
        """Returns what D, H and W of a volume must be multiples of."""
        return self.downsample

    @property
    def latent_channels(self) -> int:
        """Returns c of a volume's latents [d, h, w, c]."""
        return self.bottleneck.channels

    @property
    def latent_size(self) -> tuple[int, int, int]:
        """(d, h, w) of a volume's latents."""
        return self._latent_size(self.size)

    def told_spec(self, count: int) -> Batch:
        """Nothing but the volumes is read."""
        return {}

    def init(self, key: jax.Array, batch: Batch) -> tuple[Arrays, Arrays]:
        """Float32 parameters, and variables, for volumes like `batch["image"]`, [B, D, H, W, C]."""
        names = ("encoder", "decoder", "image", "volume", "bottleneck")
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        volume = batch["image"][:1]
        encoded, encoder = self.encoder.init_with_output(keys["encoder"], volume)
        networks = {
            "encoder": encoder,
            "decoder": self.decoder.init(keys["decoder"], self.bottleneck.latents(encoded)),
            "image": self.discriminator.init(keys["image"], volume[:, 0]),
            "volume": self.discriminator.init(keys["volume"], volume),
        }
        params = {name: network["params"] for name, network in networks.items()}
        variables = {
            **self.bottleneck.init(keys["bottleneck"]),
            "batch_stats": {n: network["batch_stats"] for n, network in networks.items() if "batch_stats" in network},
        }
        return {
            "generator": {name: params[name] for name in ("encoder", "decoder")},
            "discriminator": {name: params[name] for name in ("image", "volume")},
        }, variables

    def encode(self, frozen: Arrays, volumes: jax.Array) -> jax.Array:
        """Latents [B, d, h, w, c] float32, before quantisation, of volumes [B, D, H, W, C] in [-1, 1].

        Args:
          frozen: {"generator": its parameters} with the variables, of which "batch_stats" may be left out where no norm is a
            batch norm; `encode` needs none of the bottleneck's.
        """
        return self.bottleneck.latents(self._encoded(frozen, volumes))

    def decode_latents(self, frozen: Arrays, latents: jax.Array) -> jax.Array:
        """`decode` of latents that need not be quantised: they are brought to such as the decoder knows."""
        return self.decode(frozen, self.bottleneck.quantize(frozen, latents))

    def decode(self, frozen: Arrays, latents: jax.Array) -> jax.Array:
        """Volumes [B, D, H, W, C] float32, about [-1, 1] but not clipped, of quantised latents."""
        scale = self.decoder.downsample
        tile = self.tile and tuple(edge // factor for edge, factor in zip(self.tile, scale, strict=True))
        return self._apply(self.decoder, _with_statistics(frozen, "decoder"), latents, tile, scale)

    def with_tile(self, tile: Sequence[int] | None) -> "Autoencoder":
        """The same, encoding and decoding in tiles.

        Raises:
          UserError: a tile does not come to whole latents, four of them along each axis at least.
        """
        downsample = self.downsample
        if tile and (
            len(tile) != 3 or any(n % factor or n < 4 * factor for n, factor in zip(tile, downsample, strict=True))
        ):
            least = tuple(4 * factor for factor in downsample)
            raise UserError(f"latents.tile is {tuple(tile)}: give multiples of {tuple(downsample)}, {least} or more")
        return dataclasses.replace(self, tile=tuple(tile) if tile else None)

    def gradients(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, dict[str, jax.Array]]:
        """Gradients of the generator's and of the discriminators' loss, each with respect to its own parameters.

        Args:
          batch: "image" [B, D, H, W, C] in [-1, 1], float32, and "row" [B], each example's place in the whole batch.
        """
        slice_key, *bottleneck_keys = jax.random.split(key, 3)
        volumes, rows = batch["image"], batch["row"]
        chances = Chances(
            random_slices(slice_key, rows, volumes.shape[1]),
            self.bottleneck.draw(bottleneck_keys, rows, self._latent_size(volumes.shape[1:4])),
        )
        return self.gradients_given(chances, params, variables, frozen, volumes, step)

    def gradients_given(
        self, chances: Chances, params: Arrays, variables: Arrays, frozen: Arrays, volumes: jax.Array, step: jax.Array
    ) -> tuple[Arrays, Arrays, dict[str, jax.Array]]:
        """`gradients`, with nothing left to chance."""
        real_slices, statistics = take_slices(volumes, chances.slices), variables["batch_stats"]
        forward = functools.partial(self._forward, chances, variables, volumes)
        outputs, pull, (variables, metrics) = jax.vjp(forward, params["generator"], has_aux=True)

        def of_generator(outputs: Outputs) -> tuple[jax.Array, dict[str, jax.Array]]:
            losses = self._reconstruction_losses(outputs, volumes, real_slices, frozen)
            losses[self.bottleneck.name] = outputs.bottleneck
            return sum(losses.values()), losses

        def at_last_layer(asked: Outputs) -> jax.Array:
            return jnp.linalg.norm(pull(asked)[0]["decoder"]["output_conv"]["kernel"])

        (_, losses), asked = jax.value_and_grad(of_generator, has_aux=True)(outputs)
        discriminator_grads, adversary = jax.tree.map(jnp.zeros_like, params["discriminator"]), self.adversary
        if adversary.weights:
            real = {"image": real_slices, "volume": volumes}
            generated = {"image": outputs.slices, "volume": outputs.reconstruction}
            judge = functools.partial(self._judge, statistics, {name: real[name] for name in adversary.weights})
            own = {name: statistics[name] for name in adversary.weights if name in statistics}
            verdict = adversary.verdict(judge, params["discriminator"], generated, own, step)
            variables["batch_stats"] |= verdict.statistics
            metrics |= verdict.metrics
            taught = [_zero_but(outputs, **by_name) for by_name in verdict.asked]
            share, scale = adversary.share(step), 1.0
            if adversary.adaptive:
                scale = adversary.scale(at_last_layer(asked), at_last_layer(taught[0])) * adversary.begun(step)
                metrics["adversary_scale"] = scale
            for weight, part in zip((share * scale, share), taught, strict=False):
                asked = jax.tree.map(lambda one, other, weight=weight: one + weight * other, asked, part)
            losses["adversary"] = share * scale * verdict.adversary
            losses["features"] = share * verdict.features
            discriminator_grads = verdict.grads
        loss = sum(losses.values())
        if adversary.weights:
            losses["discriminator"] = verdict.discriminator
        losses = {f"loss/{name}": value for name, value in losses.items()}
        return (
            {"generator": pull(asked)[0], "discriminator": discriminator_grads},
            variables,
            {"loss": loss, **losses, "psnr": jnp.mean(psnr(outputs.reconstruction, volumes)), **metrics},
        )

    def validate(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """How far each reconstruction is from its volume, [B], without discriminators; slices are fixed by the row."""
        del key
        volumes = batch["image"]
        encoded, quantized, reconstruction = self._reconstructed(params, variables, volumes)
        losses = {
            "l1": self.l1 * jnp.mean(jnp.abs(reconstruction - volumes), axis=(1, 2, 3, 4)),
            self.bottleneck.name: self.bottleneck.weight * self.bottleneck.loss_by_volume(encoded, quantized),
        }
        if self._compares(frozen):
            # The golden ratio spreads the slices of successive volumes evenly over D.
            share = jnp.mod(batch["row"].astype(jnp.float32) * 0.6180339887, 1.0)
            slices = jnp.minimum((share * volumes.shape[1]).astype(jnp.int32), volumes.shape[1] - 1)
            pair = (take_slices(values, slices) for values in (volumes, reconstruction))
            losses["perceptual"] = self.perceptual * LPIPS().apply({"params": frozen["perceptual"]}, *pair)
        losses = {"val_loss": sum(losses.values()), **{f"val_loss/{name}": value for name, value in losses.items()}}
        return {**losses, "val_psnr": psnr(reconstruction, volumes)}

    def previews(
        self, params: Arrays, variables: Arrays, frozen: Arrays, batch: Batch, key: jax.Array
    ) -> dict[str, jax.Array]:
        """The batch as it comes out again."""
        del frozen, key
        return {"reconstructed": self._reconstructed(params, variables, batch["image"])[2]}

    def _latent_size(self, size: Sequence[int]) -> tuple[int, int, int]:
        """(d, h, w) of the latents of a volume of (D, H, W) voxels."""
        return tuple(edge // factor for edge, factor in zip(size, self.downsample, strict=True))

    def _encoded(self, frozen: Arrays, volumes: jax.Array) -> jax.Array:
        """Returns what the encoder gives of volumes."""
        scale = [Fraction(1, factor) for factor in self.downsample]
        return self._apply(self.encoder, _with_statistics(frozen, "encoder"), volumes, self.tile, scale)

    def _apply(
        self,
        network: nn.Module,
        variables: Arrays,
        x: jax.Array,
        tile: tuple[int, int, int] | None,
        scale: Sequence[int | Fraction],
    ) -> jax.Array:
        """A network's result, in tiles that share a quarter of their edges if there are to be any."""
        if tile is None:
            return network.apply(variables, x)
        overlap = [edge // 4 // (whole := Fraction(s).denominator) * whole for edge, s in zip(tile, scale, strict=True)]
        return in_tiles(functools.partial(network.clone(remat=()).apply, variables), x, tile, overlap, scale)

    def _reconstructed(
        self, params: Arrays, variables: Arrays, volumes: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns what the encoder gives, the latents that the decoder is given, and the volumes in [-1, 1] it makes of them."""
        frozen = {"generator": params["generator"], **variables}
        encoded = self._encoded(frozen, volumes)
        quantized = self.bottleneck.quantize(variables, self.bottleneck.latents(encoded))
        return encoded, quantized, jnp.clip(self.decode(frozen, quantized), -1.0, 1.0)

    def _reconstruction_losses(
        self, outputs: Outputs, volumes: jax.Array, real_slices: jax.Array, frozen: Arrays
    ) -> dict[str, jax.Array]:
        losses = {"l1": self.l1 * jnp.mean(jnp.abs(outputs.reconstruction - volumes))}
        if self._compares(frozen):
            distances = LPIPS().apply({"params": frozen["perceptual"]}, real_slices, outputs.slices)
            losses["perceptual"] = self.perceptual * jnp.mean(distances)
        return losses

    def _forward(
        self, chances: Chances, variables: Arrays, volumes: jax.Array, generator: Arrays
    ) -> tuple[Outputs, tuple[Arrays, dict[str, jax.Array]]]:
        """Returns what the generator makes in a training step, its variables after it and metrics of the bottleneck."""
        statistics = variables["batch_stats"]
        encoded, statistics = _in_training(self.encoder, generator, statistics, "encoder", volumes)
        passed = self.bottleneck(encoded, variables, chances.bottleneck)
        reconstruction, statistics = _in_training(self.decoder, generator, statistics, "decoder", passed.latents)
        reconstruction = constrain_volume(reconstruction)
        slices = take_slices(reconstruction, chances.slices)
        outputs = Outputs(reconstruction, slices, self.bottleneck.weight * passed.loss)
        return outputs, lax.stop_gradient(({**passed.variables, "batch_stats": statistics}, passed.metrics))

    def _judge(
        self, statistics: Arrays, real: dict[str, jax.Array], discriminator: Arrays, generated: dict[str, jax.Array]
    ) -> tuple[dict[str, Judgement], tuple[Arrays, dict[str, jax.Array]]]:
        """Judgements of what is real and of what was generated, running statistics after them, metrics of the logits."""
        judgements, metrics = {}, {}
        for name in real:
            judged = []
            for x in (real[name], generated[name]):
                (logits, features), statistics = _in_training(self.discriminator, discriminator, statistics, name, x)
                judged.append((logits, features))
            (of_real, real_features), (of_fake, fake_features) = judged
            judgements[name] = Judgement(of_real, of_fake, real_features, fake_features)
            metrics |= {f"logits/{name}_real": jnp.mean(of_real), f"logits/{name}_fake": jnp.mean(of_fake)}
        own = {name: statistics[name] for name in real if name in statistics}
        return judgements, lax.stop_gradient((own, metrics))

    def _compares(self, frozen: Arrays) -> bool:
        return self.perceptual > 0 and "perceptual" in frozen


def make_bottleneck(model: ConfigDict) -> Bottleneck:
    """The bottleneck that the `model` part of an autoencoder's configuration describes."""
    if model.bottleneck == "kl":
        return KL(channels=model.embedding_channels, weight=model.kl_weight)
    return Codebook(
        channels=model.embedding_channels,
        codes=model.codes,
        decay=model.codebook_decay,
        weight=model.commitment,
        restart_threshold=model.restart_threshold,
        restart_statistics=model.restart_statistics,
    )


def _in_training(network: nn.Module, params: Arrays, statistics: Arrays, name: str, x: jax.Array) -> tuple[Any, Arrays]:
    """One network's result, by its name, and all running statistics after it."""
    given = {"params": params[name]} | ({"batch_stats": statistics[name]} if name in statistics else {})
    y, changed = network.apply(given, x, train=True, mutable=["batch_stats"])
    return y, statistics | ({name: changed["batch_stats"]} if name in statistics else {})


def _zero_but(outputs: Outputs, image: jax.Array, volume: jax.Array) -> Outputs:
    """Gradients with respect to outputs: those of slices and of volumes, and none of the rest."""
    return Outputs(volume, image, jnp.zeros_like(outputs.bottleneck))


def _with_statistics(frozen: Arrays, name: str) -> dict[str, Arrays]:
    """Returns what `apply` takes of one network of the generator."""
    statistics = frozen.get("batch_stats", {}).get(name)
    return {"params": frozen["generator"][name]} | ({"batch_stats": statistics} if statistics else {})
