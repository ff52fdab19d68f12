"""Medical Diffusion's VQ-GAN as a reference file's `config` describes it, in our terms."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from golden_files import GoldenFile, recipe_weight
from medjax.interop import perceptual
from medjax.interop.medical_vqgan import to_params
from medjax.models.discriminators import PatchDiscriminator
from medjax.models.vqgan import Decoder, Encoder
from medjax.tasks.adversarial import Adversary
from medjax.tasks.autoencoder import Autoencoder
from medjax.tasks.bottlenecks.codebook import Codebook

FILLS = {"constant": "zeros"}  # where our names differ


def vqgan_of(config: dict[str, Any]) -> Autoencoder:
    model = config["cfg_model"]
    both = {
        "base_channels": model["n_hiddens"],
        "downsample": tuple(model["downsample"]),
        "norm": model["norm_type"],
        "groups": model["num_groups"],
        "lowering": "planes",
    }
    padding = FILLS.get(model["padding_type"], model["padding_type"])
    return Autoencoder(
        encoder=Encoder(out_channels=model["embedding_dim"], padding=padding, **both),
        bottleneck=Codebook(
            channels=model["embedding_dim"],
            codes=model["n_codes"],
            restart_threshold=0.0 if model["no_random_restart"] else model["restart_thres"],
            restart_statistics=False,
        ),
        decoder=Decoder(out_channels=config["image_channels"], **both),
        discriminator=PatchDiscriminator(model["disc_channels"], model["disc_layers"]),
        adversary=Adversary(
            image=model["image_gan_weight"],
            volume=model["video_gan_weight"],
            features=model["gan_feat_weight"],
            kind=model["disc_loss_type"],
            start=model["discriminator_iter_start"],
        ),
        size=(0, 0, 0),  # which only `latent_size` asks for
        l1=model["l1_weight"],
        perceptual=model["perceptual_weight"],
    )


def state_of(task: Autoencoder, golden: GoldenFile) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and variables."""
    edges = [4 * factor for factor in task.encoder.downsample]
    volume = jax.ShapeDtypeStruct((1, *edges, golden.config["image_channels"]), jnp.float32)
    shapes = jax.eval_shape(task.init, jax.random.key(0), {"image": volume})
    return to_params(golden.weights, *shapes)


def lpips_of(golden: GoldenFile) -> dict[str, Any]:
    """The parameters of LPIPS; VGG16's are made by recipe."""
    weights = dict(golden.weights)
    inputs = (3, *(width for width, places in zip(perceptual.WIDTHS, perceptual.PLACES, strict=True) for _ in places))
    widths = dict(
        zip(
            (place for places in perceptual.PLACES for place in places),
            itertools.pairwise(inputs),
            strict=True,
        )
    )
    for name in golden["w_sha256/names"].tolist():
        if ".slice" in name and name not in weights:
            channels, width = widths[int(name.split(".")[-2])]
            shape = [width, channels, 3, 3] if name.endswith("weight") else [width]
            weights[name] = recipe_weight(name, shape, golden.config["seed"])
    return jax.tree.map(np.asarray, perceptual.to_params(weights))
