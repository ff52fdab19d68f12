import functools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.tiling import in_tiles
from medjax.models.vqgan import Decoder, Encoder
from test_blocks import randomized

X = np.random.default_rng(0).standard_normal((2, 20, 16, 8, 3)).astype("f4")
HALF = Fraction(1, 2)


def doubled(x):
    return jnp.repeat(x[..., :1], 2, axis=1) * 2.0


def halved(x):
    return x.reshape(x.shape[0], x.shape[1] // 2, 2, *x.shape[2:]).mean(axis=2)


@pytest.mark.parametrize(
    ("function", "tile", "overlap", "scale"),
    [
        (jnp.sin, (8, 8, 8), (4, 4, 4), (1, 1, 1)),
        (jnp.sin, (7, 16, 99), (2, 0, 0), (1, 1, 1)),  # the last tile starts earlier; axes that are whole
        (jnp.sin, (8, 8, 8), (0, 0, 0), (1, 1, 1)),
        (jnp.sin, (8, 16, 8), (7, 0, 0), (1, 1, 1)),
        (doubled, (8, 8, 8), (4, 4, 0), (2, 1, 1)),
        (halved, (8, 8, 8), (4, 2, 4), (HALF, 1, 1)),
    ],
)
def test_what_looks_at_single_voxels_is_the_same(function, tile, overlap, scale):
    y = jax.jit(lambda x: in_tiles(function, x, tile, overlap, scale))(X)
    np.testing.assert_allclose(y, function(X), atol=1e-5)


def test_tiles_blend_linearly_where_they_overlap():
    """Each tile says where it lies, by its first voxel: 0 for the first, 8 for the second."""
    x = np.arange(24.0, dtype="f4").reshape(1, 24, 1, 1, 1)
    y = in_tiles(lambda x: x[:, :1] + jnp.zeros_like(x), x, (16, 1, 1), (8, 0, 0), (1, 1, 1)).ravel()
    ramp = np.array([0, 0, 1, 2, 3, 4, 5, 5]) / 5  # a quarter of the overlap counts for neither side
    np.testing.assert_allclose(y, [*[0] * 8, *(8 * ramp), *[8] * 8], atol=1e-5)


def test_the_function_is_traced_a_few_times_however_many_tiles_there_are():
    calls = []

    def function(x):
        calls.append(x.shape)
        return x

    in_tiles(function, X, (4, 4, 4), (0, 0, 0), (1, 1, 1))
    assert len(calls) < 5
    assert set(calls) == {(2, 4, 4, 4, 3)}


@pytest.mark.parametrize("way", ["encoder", "decoder"])
def test_a_network_with_group_norms_gives_the_whole_away_from_borders(way):
    """What tiles cannot see beyond their margins is all that differs; by their own norms they would all differ."""
    ramp = np.linspace(-1, 1, 48, dtype="f4").reshape(1, 48, 1, 1, 1)
    options = {"base_channels": 4, "groups": 2, "downsample": (2, 1, 1)}
    if way == "encoder":
        network, scale = Encoder(**options), (HALF, 1, 1)
        x = ramp + 0.1 * np.random.default_rng(0).standard_normal((1, 48, 8, 8, 1)).astype("f4")
    else:
        network, scale = Decoder(**options), (2, 1, 1)
        x = ramp + 0.1 * np.random.default_rng(0).standard_normal((1, 48, 8, 8, 8)).astype("f4")
    params = randomized(jax.eval_shape(network.init, jax.random.key(0), x))
    apply = functools.partial(network.apply, params)
    whole = jax.jit(apply)(x)
    tiled = jax.jit(lambda x: in_tiles(apply, x, (32, 8, 8), (16, 0, 0), scale))(x)
    alone = [jax.jit(apply)(x[:, start : start + 32]) for start in (0, 16)]

    def difference(found, expected) -> np.ndarray:
        return np.abs(found - expected).max(axis=(0, 2, 3, 4)) / np.std(whole)

    edge = whole.shape[1] // 6  # of 48 voxels of D, 8
    ends = difference(tiled, whole)[np.r_[0 : 2 * edge, 4 * edge : 6 * edge]]
    assert ends.max() < 1e-3
    assert difference(alone[0][:, : 2 * edge], whole[:, : 2 * edge]).min() > 0.01


def test_refuses():
    with pytest.raises(ValueError, match="tiles of 8 that share 8 do not advance"):
        in_tiles(jnp.sin, X, (8, 8, 8), (8, 0, 0), (1, 1, 1))
    with pytest.raises(ValueError, match="16 in tiles of 7 that share 2, each times 1/2: make all of them whole"):
        in_tiles(jnp.sin, X, (8, 7, 8), (2, 2, 2), (HALF, HALF, HALF))
