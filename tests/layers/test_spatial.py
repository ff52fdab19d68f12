import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from medjax.layers.conv import LOWERINGS, conv3d, same_padding
from medjax.layers.spatial import constrain_volume, extend_split, gather_space, volume_spec, zero_beyond
from on_mesh import MESH, on_the_mesh
from tolerance import assert_equal_but_for_rounding


def test_axes_are_cut_where_shards_keep_two_planes():
    assert volume_spec((2, 8, 8, 3, 1), MESH) == PartitionSpec(("data", "fsdp"), "depth", "height")
    assert volume_spec((2, 2, 4, 3, 1), MESH) == PartitionSpec(("data", "fsdp"), None, "height")
    assert volume_spec((2, 8, 2, 3, 1), MESH) == PartitionSpec(("data", "fsdp"), "depth", None)
    assert volume_spec((2, 9, 8, 3, 1), MESH) == PartitionSpec(("data", "fsdp"), None, "height")
    assert volume_spec((1, 8, 8, 3, 1), MESH) == PartitionSpec(None, "depth", "height")


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(
    ("kernel_size", "strides", "padding", "permutes"),
    [
        ((3, 3, 3), (1, 1, 1), ((1, 1),) * 3, 4),
        ((3, 3, 3), (2, 2, 2), ((1, 1),) * 3, 2),  # the last output of a shard reaches no further than the shard
        ((3, 3, 3), (2, 2, 2), ((0, 1),) * 3, 2),
        ((5, 3, 3), (1, 1, 1), ((2, 2), (1, 1), (1, 1)), 4),
        ((1, 1, 1), (1, 1, 1), ((0, 0),) * 3, 0),
    ],
)
def test_a_convolution_of_a_cut_volume_fetches_halos_only(lowering, kernel_size, strides, padding, permutes):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 8, 6, 3)).astype("f4")
    kernel = rng.standard_normal((*kernel_size, 3, 4)).astype("f4")
    y, found = on_the_mesh(lambda x, k: conv3d(x, k, strides, padding, lowering), x, kernel)
    assert_equal_but_for_rounding(y, conv3d(x, kernel, strides, padding))
    assert found == ({"collective-permute": permutes} if permutes else {})


@pytest.mark.parametrize("fill", ["replicate", "reflect", "circular"])
@pytest.mark.parametrize(("taps", "stride"), [(3, 1), (4, 2), (4, 1)])
def test_other_borders_than_zeros_are_filled_where_they_are(fill, taps, stride):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 8, 6, 3)).astype("f4")
    kernel = rng.standard_normal((taps,) * 3 + (3, 4)).astype("f4")
    strides = (stride,) * 3

    def convolve(x, kernel):
        return conv3d(x, kernel, strides, same_padding((taps,) * 3, strides), fill=fill)

    def gradients(x, kernel):
        return jax.grad(lambda *a: (convolve(*a) ** 2).sum(), argnums=(0, 1))(x, kernel)

    y, found = on_the_mesh(convolve, x, kernel)
    assert_equal_but_for_rounding(y, convolve(x, kernel))
    assert found == {"collective-permute": 4}
    assert_equal_but_for_rounding(on_the_mesh(gradients, x, kernel)[0], gradients(x, kernel))


def test_a_border_that_a_shard_is_too_small_to_mirror_is_still_right():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 4, 4, 6, 3)).astype("f4")  # shards of two planes, which reach beyond their neighbour's
    kernel, padding = rng.standard_normal((4, 4, 4, 3, 4)).astype("f4"), same_padding((4, 4, 4), (1, 1, 1))
    y, _ = on_the_mesh(lambda x, k: conv3d(x, k, (1, 1, 1), padding, fill="reflect"), x, kernel)
    assert_equal_but_for_rounding(y, conv3d(x, kernel, (1, 1, 1), padding, fill="reflect"))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_its_gradients_are_those_of_one_device(lowering):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 16, 8, 6, 3)).astype("f4")
    kernel = rng.standard_normal((3, 3, 3, 3, 4)).astype("f4")

    def gradients(x, kernel):
        return jax.grad(lambda *a: (conv3d(*a, (1,) * 3, ((1, 1),) * 3, lowering) ** 2).sum(), argnums=(0, 1))(
            x, kernel
        )

    assert_equal_but_for_rounding(on_the_mesh(gradients, x, kernel)[0], gradients(x, kernel))


def test_a_convolution_that_changes_the_planes_of_a_shard_is_still_right():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 16, 8, 6, 3)).astype("f4"), rng.standard_normal((3, 3, 3, 3, 4)).astype("f4")
    valid = ((0, 0),) * 3
    y, _ = on_the_mesh(lambda x, k: conv3d(x, k, (1, 1, 1), valid), x, kernel)
    assert_equal_but_for_rounding(y, conv3d(x, kernel, (1, 1, 1), valid))


def test_what_is_kept_whole_is_gathered_and_what_is_split_is_not():
    x = np.arange(2 * 8 * 4 * 3, dtype="f4").reshape(2, 8, 4, 3)
    split, found = on_the_mesh(constrain_volume, x)
    assert (split.sharding.shard_shape(x.shape), found) == ((1, 4, 2, 3), {})
    whole, found = on_the_mesh(gather_space, x)
    assert whole.sharding.shard_shape(x.shape) == (1, 8, 4, 3)
    assert found.keys() == {"all-gather"}
    np.testing.assert_array_equal(whole, x)


@pytest.mark.parametrize("size", [(12, 8), (24, 12), (8, 20), (40, 8)])
def test_zeros_appended_to_a_cut_volume_move_planes_between_shards_and_gather_none(size):
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 3, 1)).astype("f4")
    expected = np.pad(x, ((0, 0), (0, size[0] - 8), (0, size[1] - 8), (0, 0), (0, 0)))
    longer, found = on_the_mesh(lambda x: extend_split(x, size), x, sizes={"depth": 4, "height": 2})
    np.testing.assert_array_equal(longer, expected)
    np.testing.assert_array_equal(extend_split(jnp.asarray(x), size), expected)
    assert found.keys() <= {"collective-permute"}


def test_zero_beyond_an_extent():
    y = zero_beyond(jnp.full((1, 3, 4, 5, 2), jnp.nan).at[:, :2, :4, :3].set(1.0), (2, 4, 3))
    assert (y.sum(), jnp.count_nonzero(y)) == (48, 48)


def test_without_a_mesh_in_force_nothing_happens():
    x = np.ones((2, 8, 8, 2, 1), "f4")
    assert constrain_volume(x) is x
    assert gather_space(x) is x
