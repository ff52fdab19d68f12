"""A training step of the VQ-GAN is the same on every mesh, and no volumes are gathered for it."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from gathered import gathered_by_slices
from medjax.models import codebook as codebooks
from medjax.runtime import sharding
from medjax.runtime.mesh import AXES, batch_sharding, make_mesh, on_mesh
from medjax.runtime.sharding import state_shardings
from medjax.tasks.autoencoder import Autoencoder
from test_autoencoder import configuration
from tolerance import assert_equal_but_for_rounding, moved_by_last_bits

ONE = "data=1"
MESHES = ("data=8", "depth=4,height=2", "data=2,fsdp=2,depth=2")
BATCH, SIZE, STEP = 8, (16, 16, 8), 10


@pytest.fixture(autouse=True, scope="module")
def everything_is_large_enough_for_fsdp_to_cut():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALLEST_CUT", 64)
        yield


def mesh_of(text: str) -> Mesh:
    return make_mesh(dict.fromkeys(AXES, 1) | {k: int(v) for k, v in (part.split("=") for part in text.split(","))})


@functools.cache
def start():
    task = Autoencoder.from_config(configuration(**{"model.downsample": (2, 2, 2)}))
    image = np.random.default_rng(0).uniform(-1, 1, (BATCH, *SIZE, 1)).astype("f4")
    batch = {"image": image, "row": np.arange(BATCH, dtype=np.int32)}
    return task, batch, *jax.device_get(jax.jit(task.init)(jax.random.key(0), batch))


def given(text: str, params, variables, batch) -> tuple:
    """The arguments of `Autoencoder.gradients` on a mesh."""
    mesh, state = mesh_of(text), (params, variables)
    batch = jax.device_put(batch, {name: batch_sharding(mesh, array) for name, array in batch.items()})
    return *jax.device_put(state, state_shardings(state, mesh)), {}, batch, jax.random.key(1), jnp.int32(STEP)


@functools.cache
def compiled(text: str):
    task, batch, params, variables = start()
    gradients = jax.jit(on_mesh(task.gradients, mesh_of(text)))
    return gradients.lower(*given(text, params, variables, batch)).compile()


@functools.cache
def trained(text: str):
    """Gradients, variables, metrics and latents."""
    task, batch, params, variables = start()
    arguments = given(text, params, variables, batch)
    frozen = {"generator": arguments[0]["generator"]}
    latents = jax.jit(on_mesh(task.encode, mesh_of(text)))(frozen, arguments[3]["image"])
    return jax.device_get((*compiled(text)(*arguments), latents))


@pytest.fixture(scope="module")
def moves():
    """How far last bits move gradients and variables."""
    _, batch, params, variables = start()
    return moved_by_last_bits(lambda *changed: compiled(ONE)(*given(ONE, *changed))[:2], params, variables, batch)


@pytest.mark.parametrize("text", MESHES)
def test_gradients_and_variables_are_those_of_one_device(text, moves):
    (gradients, variables, *_), (expected, expected_variables, *_) = trained(text), trained(ONE)
    # What is real pulls new discriminators about as far as what is generated, the other way: pulls of 1 together, of which
    # the gradients are small differences.
    for side, size in {"generator": None, "discriminator": 1.0}.items():
        assert_equal_but_for_rounding(gradients[side], expected[side], size=size, moves=moves[0][side])
    assert_equal_but_for_rounding(variables, expected_variables, moves=moves[1])


@pytest.mark.parametrize("text", MESHES)
def test_losses_are_those_of_one_device(text):
    for name, expected in trained(ONE)[2].items():
        np.testing.assert_allclose(trained(text)[2][name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("text", MESHES)
def test_latents_are_those_of_one_device_and_codes_flip_at_ties_only(text):
    embeddings = trained(ONE)[1]["codebook"]["embeddings"]
    expected, found = trained(ONE)[3], trained(text)[3]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    codes = [np.asarray(codebooks.nearest(embeddings, jnp.asarray(latents))) for latents in (expected, found)]
    flipped = codes[0] != codes[1]
    distances = [np.linalg.norm(expected - embeddings[chosen], axis=-1)[flipped] for chosen in codes]
    np.testing.assert_allclose(*distances, atol=1e-4)
    assert flipped.mean() < 0.01


@pytest.mark.parametrize("text", MESHES)
def test_what_is_gathered_is_listed(text):
    mesh = mesh_of(text)
    found = re.findall(r"= (.*?) (?:all-gather|all-to-all)(?:-start)?\(", compiled(text).as_text())
    shapes = [tuple(map(int, shape.split(","))) for line in found for shape in re.findall(r"\[([\d,]+)\]", line)]
    _, _, params, variables = start()
    own = {leaf.shape for leaf in jax.tree.leaves((params, variables))} if mesh.shape["fsdp"] > 1 else set()
    activations = [shape for shape in shapes if shape not in own]
    slices = 2 * gathered_by_slices((BATCH, *SIZE), mesh.shape)  # of real volumes and of reconstructions
    patches = 2 * 2 * 4 * BATCH * math.prod(n // 2 + 3 for n in SIZE)  # their logits, forward and backward
    assert 4 * sum(map(math.prod, activations)) <= slices + patches, activations
