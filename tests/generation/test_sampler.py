import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import atlas
from medjax.diffusion.samplers.options import SAMPLERS
from medjax.generation.sampler import CompiledSampler
from medjax.runtime.mesh import make_mesh
from medjax.tasks import make_task
from test_diffusion_on_latents import FROZEN, started, task_of

INDICES, SEED = np.arange(2, dtype=np.uint32), 3


class OneLayer(nn.Module):
    """Something of the coefficients and the time at each voxel."""

    @nn.compact
    def __call__(self, x_t, t, told=None):
        mixed = nn.Dense(8, name="head")(x_t)
        return jnp.tanh(mixed + jnp.cos(t).reshape(-1, 1, 1, 1, 1))


def task_and_params(sampler):
    config = atlas.get_config("tiny")
    config.data.size = (16, 16, 16)
    config.sample.sampler, config.sample.steps = sampler, 5
    task = dataclasses.replace(make_task(config), network=OneLayer())
    return task, task.init(jax.random.key(0), {"image": jnp.zeros((1, 16, 16, 16, 1))})[0]


@pytest.mark.parametrize("sizes", [{"data": 1}, {"data": 2, "depth": 2}], ids=["one device", "four"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_where_the_steps_are_cut_changes_no_bit(sampler, sizes):
    task, params = task_and_params(sampler)
    mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1} | sizes)
    drawing = CompiledSampler(task, mesh, params, {}, SEED, INDICES, {}, None, {})
    progress = []
    volumes = np.asarray(drawing(INDICES, {}, on_progress=progress.append))
    assert progress == [1] * 5
    assert np.abs(volumes[0] - volumes[1]).max() > 0.1
    for stretches in (1, 2):
        np.testing.assert_array_equal(np.asarray(drawing(INDICES, {}, stretches=stretches)), volumes)
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(SEED), i))(INDICES)
    whole = jax.jit(lambda params, keys: task.sample(params, {}, {}, keys))(params, keys)
    np.testing.assert_allclose(whole, volumes, atol=1e-5)


def test_other_volumes_by_the_same_programs():
    task, params = task_and_params("ddim")
    mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1})
    drawing = CompiledSampler(task, mesh, params, {}, SEED, INDICES, {}, None, {})
    there = np.asarray(drawing(INDICES + 1, {}))
    np.testing.assert_array_equal(there[0], np.asarray(drawing(INDICES, {}))[1])


def test_latents_that_depth_does_not_divide_are_drawn_all_the_same():
    task = task_of(**{"data.size": (12, 8, 16)})  # six planes of latents for four devices
    params, variables = started(task)
    drawn = {}
    for depth in (1, 4):
        mesh = make_mesh({"data": 1, "fsdp": 1, "depth": depth, "height": 1})
        volumes = CompiledSampler(task, mesh, params, variables, SEED, INDICES, {}, None, FROZEN)(INDICES, {})
        assert {shard.data.shape[1] for shard in volumes.addressable_shards} == {12 // depth}
        drawn[depth] = np.asarray(volumes)
    np.testing.assert_allclose(drawn[4], drawn[1], atol=1e-5)
