import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.fold import refold
from medjax.layers.resample import average_pool_2x
from medjax.layers.wavelet_resample import haar_bands, haar_down, haar_up
from tolerance import assert_equal_but_for_rounding

X = np.random.default_rng(0).standard_normal((2, 4, 6, 8, 3)).astype(np.float32)


def test_down_and_up_are_inverse():
    low, details = haar_down(X)
    assert (low.shape, details.shape) == ((2, 2, 3, 4, 3), (2, 2, 3, 4, 21))
    assert_equal_but_for_rounding(haar_up(low, details), X, units=16)


def test_low_is_the_mean_as_published():
    low, _ = haar_down(X)
    assert_equal_but_for_rounding(low, average_pool_2x(X) * 8**0.5 / 3, units=16)


def test_bands_are_low_and_details_all_divided_by_3():
    low, details = haar_down(X)
    assert_equal_but_for_rounding(haar_bands(X), jnp.concatenate([low, details / 3], axis=-1), units=16)


def test_details_are_by_subband_then_channel():
    """A step along W alone, in the second of two channels, is in LLH of that channel: the first subband of seven."""
    x = np.zeros((1, 2, 2, 2, 2), np.float32)
    x[..., 0, 1], x[..., 1, 1] = 1, -1
    _, details = haar_down(x)
    assert_equal_but_for_rounding(details.ravel(), np.eye(14)[1] * 8**0.5, units=16)


@pytest.mark.parametrize(("fold", "out_fold"), [(4, 1), (1, 2), (2, 4)])
def test_folds_change_the_layout_alone(fold, out_fold):
    low, details = haar_down(X)
    for folded, plain in zip(haar_down(refold(X, 1, fold), fold, out_fold), (low, details), strict=True):
        np.testing.assert_array_equal(folded, refold(plain, 1, out_fold))
    np.testing.assert_array_equal(haar_bands(refold(X, 1, fold), fold, out_fold), refold(haar_bands(X), 1, out_fold))
    up = haar_up(refold(low, 1, out_fold), refold(details, 1, out_fold), out_fold, fold)
    assert_equal_but_for_rounding(up, refold(X, 1, fold), units=16)


def test_transforms_in_float32():
    x = X.astype(jnp.bfloat16)
    low, details = haar_down(x)
    assert low.dtype == details.dtype == haar_up(low, details).dtype == haar_bands(x).dtype == jnp.bfloat16
    exact = haar_down(x.astype(jnp.float32))[1].astype(jnp.bfloat16)
    assert jnp.array_equal(details, exact)


def test_a_cut_volume_stays_cut():
    mesh = jax.make_mesh(
        (1, 1, 2, 2), ("data", "fsdp", "depth", "height"), axis_types=(jax.sharding.AxisType.Auto,) * 4
    )
    x = np.zeros((1, 8, 8, 8, 3), np.float32)

    def there_and_back(x):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return haar_up(*haar_down(x))

    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "depth", "height"))
    compiled = jax.jit(there_and_back, in_shardings=cut).lower(x).compile()
    text = compiled.as_text()
    assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"))
    assert compiled.output_shardings.shard_shape(x.shape) == (1, 4, 4, 8, 3)
