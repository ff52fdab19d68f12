"""One step of training, ten of them, and sampling are the same on every mesh, and nothing is gathered that need not be."""

import functools
import math
import re

import jax
import numpy as np
import optax
import pytest
from jax.sharding import Mesh
from ml_collections import ConfigDict

from configs import brats
from gathered import gathered_by_unet
from medjax.builders.steps import denoise_step_of, state_shapes, train_step_of, volume_shapes
from medjax.runtime import sharding
from medjax.runtime.mesh import AXES, batch_sharding, make_mesh, put_batch
from medjax.runtime.sharding import state_shardings
from medjax.runtime.train_state import TrainState
from medjax.tasks import make_task

ONE = "data=1"
MESHES = ("data=8", "fsdp=8", "depth=8", "depth=4,height=2", "data=2,fsdp=2,depth=2")
SIZE, BATCH = (32, 16, 16), 8
STEPS = 10


def configuration() -> ConfigDict:
    config = brats.get_config("tiny")
    config.model.base_channels, config.model.channel_multipliers = 8, (1, 1, 2)
    config.model.middle_attention = True
    config.train.lowering = "direct"
    config.data.size, config.data.batch_size = SIZE, BATCH
    return config


@pytest.fixture(autouse=True, scope="module")
def everything_is_large_enough_for_fsdp_to_cut():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "SMALLEST_CUT", 2)
        yield


def mesh_of(text: str) -> Mesh:
    return make_mesh(dict.fromkeys(AXES, 1) | {k: int(v) for k, v in (part.split("=") for part in text.split(","))})


def optimizer() -> optax.GradientTransformation:
    return optax.chain(optax.trace(decay=0.0), optax.adamw(1e-3))  # the trace is the last gradients


@functools.cache
def start() -> TrainState:
    """A state without a zero in it, as the layers that start at zero would hide the others' gradients."""
    task = make_task(configuration())
    shapes = state_shapes(task, optimizer(), volume_shapes(SIZE, BATCH))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (rng.standard_normal(leaf.shape) / math.sqrt(max(1, math.prod(leaf.shape[:-1])))).astype("f4"),
        shapes.params,
    )
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes.opt_state)
    return TrainState(np.zeros((), np.int32), params, {}, zeros, params)


def compiled_train_step(config: ConfigDict, mesh: Mesh) -> jax.stages.Compiled:
    task, batch = make_task(config), volume_shapes(tuple(config.data.size), config.data.batch_size)
    shapes = state_shapes(task, optimizer(), batch)
    return train_step_of(config, task, optimizer(), shapes, batch, mesh).lower(shapes, {}, batch).compile()


@functools.cache
def trained(text: str) -> tuple[dict, list[float]]:
    """The first step's gradients and ten steps' losses."""
    mesh = mesh_of(text)
    state = jax.device_put(start(), state_shardings(start(), mesh))
    train_step = compiled_train_step(configuration(), mesh)
    losses, gradients = [], None
    for step in range(STEPS):
        image = np.random.default_rng(step).uniform(-1, 1, (BATCH, *SIZE, 1)).astype("f4")
        state, metrics = train_step(state, {}, put_batch({"image": image}, mesh, BATCH))
        losses.append(float(metrics["loss"]))
        gradients = gradients or jax.device_get(state.opt_state[0].trace)
    return gradients, losses


def sampled(text: str) -> np.ndarray:
    mesh, task = mesh_of(text), make_task(configuration())
    params = jax.device_put(start().params, state_shardings(start().params, mesh))
    keys = jax.random.split(jax.random.key(1), BATCH)
    step = denoise_step_of(task, params, {}, volume_shapes(SIZE, BATCH), mesh)
    return jax.device_get(step(params, {}, {}, jax.device_put(keys, batch_sharding(mesh, keys))))


def norm(tree) -> float:
    return math.sqrt(sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("text", MESHES)
def test_the_first_gradients_are_those_of_one_device(text):
    expected, found = trained(ONE)[0], trained(text)[0]
    total = norm(expected)
    for (path, want), got in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        # A tensor of next to no gradient is nothing but rounding.
        assert norm(got - want) <= 1e-5 * max(norm(want), 1e-6 * total), jax.tree_util.keystr(path)


@pytest.mark.parametrize("text", MESHES)
def test_ten_steps_losses_are_those_of_one_device(text):
    np.testing.assert_allclose(trained(text)[1], trained(ONE)[1], rtol=1e-5, atol=0)
    assert len(set(trained(text)[1])) == STEPS


@pytest.fixture(scope="module")
def samples_of_one_device() -> np.ndarray:
    return sampled(ONE)


@pytest.mark.parametrize("text", MESHES)
def test_samples_are_those_of_one_device(text, samples_of_one_device):
    assert samples_of_one_device.std() > 0.1
    np.testing.assert_allclose(sampled(text), samples_of_one_device, atol=1e-4)


def gathered(text: str) -> list[tuple[int, ...]]:
    """The shapes that the all-gathers and all-to-alls of a compiled program give, a device."""
    found = re.findall(r"= (.*?) (?:all-gather|all-to-all)(?:-start)?\(", text)
    return [tuple(map(int, shape.split(","))) for line in found for shape in re.findall(r"\[([\d,]+)\]", line)]


@pytest.mark.parametrize("ways", [{"lowering": "direct"}, {"machine": "v5e"}], ids=["direct", "as on a v5e"])
@pytest.mark.parametrize("text", MESHES[1:])
def test_a_training_step_gathers_parameters_under_fsdp_and_what_is_listed(text, ways):
    config, mesh = configuration(), mesh_of(text)
    config.train.update({"lowering": None} | ways)
    config.data.size = (64, 64, 64)
    config.model.channel_multipliers = (1, 2, 2, 4)
    found = gathered(compiled_train_step(config, mesh).as_text())
    task = make_task(config)
    params = jax.eval_shape(task.init, jax.random.key(0), volume_shapes((64, 64, 64), 1))[0]
    parameters = {leaf.shape for leaf in jax.tree.leaves(params)} if mesh.shape["fsdp"] > 1 else set()
    activations = [shape for shape in found if shape not in parameters]
    listed = gathered_by_unet(task.network, (BATCH, 32, 32, 32), mesh.shape)
    # Each of the list once forward and once backward, in float32; the sums of gathered keys' and values' gradients apart.
    assert 4 * sum(map(math.prod, activations)) <= 2 * sum(listed.values())
    assert bool(activations) == bool(listed)
