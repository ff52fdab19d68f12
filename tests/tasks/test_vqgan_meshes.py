"""A training step of the VQ-GAN is the same on every mesh, and no volumes are gathered for it."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from medjax.models import codebook as codebooks
from medjax.runtime import sharding
from medjax.runtime.mesh import AXES, batch_sharding, make_mesh, on_mesh
from medjax.runtime.sharding import state_shardings
from medjax.tasks.slices import gathered_bytes
from medjax.tasks.vqgan import VQGAN
from test_vqgan import configuration

ONE = "data=1"
MESHES = ("data=8", "depth=4,height=2", "data=2,fsdp=2,depth=2")
BATCH, SIZE, STEP = 8, (16, 16, 8), 10
# Of the length of a side. What is real pulls new discriminators about as far as what is generated, the other way: their
# gradients are small differences of large numbers.
TOLERANCES = {"generator": 1e-5, "discriminator": 5e-5, "variables": 1e-5}


@pytest.fixture(autouse=True, scope="module")
def everything_is_large_enough_for_fsdp_to_cut():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALLEST_CUT", 64)
        yield


def mesh_of(text: str) -> Mesh:
    return make_mesh(dict.fromkeys(AXES, 1) | {k: int(v) for k, v in (part.split("=") for part in text.split(","))})


@functools.cache
def start():
    task = VQGAN.from_config(configuration(**{"model.downsample": (2, 2, 2)}))
    image = np.random.default_rng(0).uniform(-1, 1, (BATCH, *SIZE, 1)).astype("f4")
    batch = {"image": image, "row": np.arange(BATCH, dtype=np.int32)}
    return task, batch, *jax.device_get(jax.jit(task.init)(jax.random.key(0), batch))


@functools.cache
def trained(text: str):
    """Gradients, variables, metrics and latents, and the compiled program of the former."""
    task, batch, params, variables = start()
    mesh = mesh_of(text)
    batch = jax.device_put(batch, {name: batch_sharding(mesh, array) for name, array in batch.items()})
    state = params, variables
    state = jax.device_put(state, state_shardings(state, mesh))
    given = (*state, {}, batch, jax.random.key(1), jnp.int32(STEP))
    compiled = jax.jit(on_mesh(task.gradients, mesh)).lower(*given).compile()
    encode = jax.jit(on_mesh(task.encode, mesh))
    return *jax.device_get((*compiled(*given), encode(state[0]["generator"], batch["image"]))), compiled.as_text()


def norm(tree) -> float:
    return math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("text", MESHES)
def test_gradients_and_variables_are_those_of_one_device(text):
    one, other = ({**trained(where)[0], "variables": trained(where)[1]} for where in (ONE, text))
    for side, expected in one.items():
        for (path, want), got in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(other[side]), strict=True):
            difference = norm(np.asarray(got, np.float64) - want)
            assert difference <= TOLERANCES[side] * norm(expected), f"{side}{jax.tree_util.keystr(path)}"


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
    found = re.findall(r"= (.*?) (?:all-gather|all-to-all)(?:-start)?\(", trained(text)[4])
    shapes = [tuple(map(int, shape.split(","))) for line in found for shape in re.findall(r"\[([\d,]+)\]", line)]
    _, _, params, variables = start()
    own = {leaf.shape for leaf in jax.tree.leaves((params, variables))} if mesh.shape["fsdp"] > 1 else set()
    activations = [shape for shape in shapes if shape not in own]
    slices = 2 * gathered_bytes((BATCH, *SIZE), mesh.shape)  # of real volumes and of reconstructions
    patches = 2 * 2 * 4 * BATCH * math.prod(n // 2 + 3 for n in SIZE)  # their logits, forward and backward
    assert 4 * sum(map(math.prod, activations)) <= slices + patches, activations
