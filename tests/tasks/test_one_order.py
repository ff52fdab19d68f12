"""What a training step adds up in one order on every machine, so that `train.deterministic` gives the same bits on GPUs.

GPUs do the additions of a scatter in any order, unless they are told to sort them first, and XLA compiles no
select-and-scatter at all then.
"""

import jax
import jax.numpy as jnp
import pytest

from configs import atlas, brats, medical_diffusion
from medjax.models.perceptual import LPIPS
from medjax.tasks import make_task

SIZE = (32, 32, 32)
BATCH = {
    "image": jax.ShapeDtypeStruct((2, *SIZE, 1), jnp.float32),
    "row": jax.ShapeDtypeStruct((2,), jnp.int32),
    "class": jax.ShapeDtypeStruct((2,), jnp.int32),
}


def on_gpus(config):
    """The configuration with the lowerings of GPUs; that of CPUs for some convolutions scatters one window each."""
    config.train.machine = "gpu"
    return config


def lowered(task, frozen, batch):
    params, variables = jax.eval_shape(task.init, jax.random.key(0), batch)
    given = params, variables, frozen, batch, jax.random.key(0), jax.ShapeDtypeStruct((), jnp.int32)
    return jax.jit(task.gradients).lower(*given).as_text()


@pytest.mark.parametrize(
    "config",
    [atlas.get_config("tiny"), brats.get_config("wavunet,tiny"), atlas.get_config("tiny,flow")],
    ids=["U-Net", "WavU-Net", "flow"],
)
def test_wavelet_diffusion_scatters_nothing(config):
    text = lowered(make_task(on_gpus(config)), {}, {name: BATCH[name] for name in ("image", "row")})
    assert "stablehlo.convolution" in text
    assert "scatter" not in text


def test_a_vqgan_scatters_but_into_its_codebook():
    slices = jax.ShapeDtypeStruct((1, 32, 32, 1), jnp.float32)
    frozen = {"perceptual": jax.eval_shape(LPIPS().init, jax.random.key(0), slices, slices)["params"]}
    config = medical_diffusion.get_config("vqgan,tiny")
    text = lowered(make_task(on_gpus(config)), frozen, {name: BATCH[name] for name in ("image", "row")})
    assert "select_and_scatter" not in text
    assert text.count('"stablehlo.scatter"') == 2  # how often each code was used, which no order changes, and the sums


@pytest.mark.parametrize("words", ["ddpm,tiny", "ddpm,unet,tiny"])
def test_latent_diffusion_scatters_nothing(words):
    config = medical_diffusion.get_config(words)
    config.model.classes = 3
    vqgan = medical_diffusion.get_config("vqgan,tiny")
    task = make_task(on_gpus(config), on_gpus(vqgan))
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    params, variables = jax.eval_shape(task.latents.autoencoder.init, jax.random.key(0), {"image": BATCH["image"]})
    first = {"generator": params["generator"], "codebook": variables["codebook"]} | {
        name: variables[name] for name in variables if name != "codebook"
    }
    text = lowered(task, {"vqgan": first, "low": scalar, "high": scalar}, BATCH)
    assert "stablehlo.convolution" in text
    assert "scatter" not in text
