import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pywt

from medjax.wavelets import (
    SUBBANDS,
    dwt_along_lanes,
    haar_dwt3d,
    haar_idwt3d,
    idwt_along_lanes,
)
from multilevel_haar import haar_wavedec3d, haar_waverec3d
from tolerance import assert_equal_but_for_rounding

SHAPES = [(2, 2, 4, 6, 1), (1, 8, 2, 10, 3), (3, 4, 4, 4, 5)]


def volume(shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def pywt_name(band: str) -> str:
    return band.replace("L", "a").replace("H", "d")


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_pywavelets(shape):
    x = volume(shape)
    bands = haar_dwt3d(x)
    expected = pywt.dwtn(x.astype(np.float64), "haar", axes=(1, 2, 3))
    for i, band in enumerate(SUBBANDS):
        assert_equal_but_for_rounding(bands[..., i, :], expected[pywt_name(band)], units=16)


@pytest.mark.parametrize("shape", SHAPES)
def test_inverse(shape):
    x = volume(shape)
    assert_equal_but_for_rounding(haar_idwt3d(haar_dwt3d(x)), x, units=16)
    bands = volume((*shape[:4], 8, shape[4]))
    assert_equal_but_for_rounding(haar_dwt3d(haar_idwt3d(bands)), bands, units=16)


def test_gradient_is_the_inverse():
    """The transform is orthonormal."""
    x, bands = volume((1, 4, 2, 6, 2)), volume((1, 2, 1, 3, 8, 2))
    (gradient,) = jax.jit(lambda x, bands: jax.vjp(haar_dwt3d, x)[1](bands))(x, bands)
    assert_equal_but_for_rounding(gradient, haar_idwt3d(bands), units=16)


@pytest.mark.parametrize("shape", [(2, 2, 4, 6, 1), (1, 8, 2, 10, 1)])
def test_as_tpus_do_it_it_is_the_same_and_so_are_its_gradients(shape):
    x, bands = volume(shape), haar_dwt3d(volume(shape))
    assert_equal_but_for_rounding(dwt_along_lanes(x), bands, units=16)
    assert_equal_but_for_rounding(idwt_along_lanes(bands), x, units=16)
    assert_equal_but_for_rounding(jax.vjp(dwt_along_lanes, x)[1](bands)[0], x, units=16)
    assert_equal_but_for_rounding(jax.vjp(idwt_along_lanes, bands)[1](x)[0], bands, units=16)


def test_the_way_is_chosen_when_it_is_compiled_and_not_when_it_runs():
    def loss(x):
        return jnp.sum(jnp.sin(haar_idwt3d(jnp.clip(haar_dwt3d(x), -1, 1))))

    text = jax.jit(jax.value_and_grad(loss)).lower(volume((1, 4, 4, 4, 1))).compile().as_text()
    assert "conditional(" not in text
    assert " dot(" not in text


@pytest.mark.parametrize(("channels", "products"), [(1, 1), (2, 0)])
@pytest.mark.parametrize(("transform", "shape"), [(haar_dwt3d, (1, 4, 4, 4)), (haar_idwt3d, (1, 2, 2, 2, 8))])
def test_on_tpus_volumes_of_one_channel_are_multiplied(transform, shape, channels, products):
    lowered = jax.jit(transform).trace(volume((*shape, channels))).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("dot_general") == products


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_levels_agree_with_pywavelets(levels):
    x = volume((2, 8, 16, 24, 2))
    coarse, details = jax.jit(haar_wavedec3d, static_argnums=1)(x, levels)
    expected = pywt.wavedecn(x.astype(np.float64), "haar", level=levels, axes=(1, 2, 3))
    assert_equal_but_for_rounding(coarse, expected[0], units=16)
    for detail, level in zip(details, reversed(expected[1:]), strict=True):
        for i, band in enumerate(SUBBANDS[1:]):
            assert_equal_but_for_rounding(detail[..., i, :], level[pywt_name(band)], units=16)
    assert_equal_but_for_rounding(haar_waverec3d(coarse, details), x, units=16)


def test_keeps_the_dtype():
    x = jnp.ones((1, 2, 2, 2, 1), jnp.bfloat16)
    for forward, inverse in ((haar_dwt3d, haar_idwt3d), (dwt_along_lanes, idwt_along_lanes)):
        assert forward(x).dtype == jnp.bfloat16
        assert inverse(forward(x)).dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(1, 3, 4, 4, 1), (1, 4, 4, 5, 1), (4, 4, 4, 1)])
def test_refuses_odd_shapes_by_name(shape):
    with pytest.raises(ValueError) as error:
        haar_dwt3d(jnp.zeros(shape))
    assert str(shape) in str(error.value)


def test_refuses_what_is_no_subbands():
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 2, 7, 1\)"):
        haar_idwt3d(jnp.zeros((1, 2, 2, 2, 7, 1)))
    with pytest.raises(ValueError, match="multiples of 8"):
        haar_wavedec3d(jnp.zeros((1, 8, 8, 12, 1)), 3)


@pytest.mark.parametrize(("forward", "inverse"), [(haar_dwt3d, haar_idwt3d), (dwt_along_lanes, idwt_along_lanes)])
def test_split_volumes_need_no_communication(forward, inverse):
    mesh = jax.make_mesh((2, 2, 2), ("data", "depth", "height"), axis_types=(jax.sharding.AxisType.Auto,) * 3)
    split = jax.NamedSharding(mesh, jax.P("data", "depth", "height"))

    def there_and_back(x):
        bands = forward(x)
        return bands, inverse(jnp.clip(bands, -1, 1))

    text = (
        jax.jit(there_and_back)
        .lower(jax.ShapeDtypeStruct((2, 8, 8, 8, 1), jnp.float32, sharding=split))
        .compile()
        .as_text()
    )
    assert "f32[1,4,4,8,1]" in text  # a shard
    assert not any(
        f"{operation}(" in text for operation in ("all-gather", "all-to-all", "all-reduce", "collective-permute")
    )
