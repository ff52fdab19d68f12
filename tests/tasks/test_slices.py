import jax
import jax.numpy as jnp
import numpy as np

from gathered import gathered_by_slices
from medjax.tasks.slices import random_slices, take_slices
from on_mesh import on_the_mesh


def test_every_slice_comes_and_rows_alone_decide():
    slices = random_slices(jax.random.key(0), jnp.arange(400), 5)
    assert set(np.asarray(slices).tolist()) == set(range(5))
    np.testing.assert_array_equal(slices[jnp.array([7, 3])], random_slices(jax.random.key(0), jnp.array([7, 3]), 5))


def test_slices_of_cut_volumes_gather_a_slice_each_and_no_volume():
    volumes = np.random.default_rng(0).standard_normal((2, 8, 8, 6, 1)).astype("f4")
    slices = jnp.array([2, 7])
    for sizes, gathers in (({"depth": 4}, 0), ({"data": 2, "depth": 2, "height": 2}, 4 * 8 * 6)):
        taken, collectives = on_the_mesh(lambda volumes: take_slices(volumes, slices), volumes, sizes=sizes)
        np.testing.assert_array_equal(taken, volumes[np.arange(2), slices])
        assert ("all-gather" in collectives) == (gathers > 0)
        mesh = {"data": 1, "fsdp": 1, "depth": 1, "height": 1} | sizes
        assert gathered_by_slices(volumes.shape[:4], mesh) == gathers
