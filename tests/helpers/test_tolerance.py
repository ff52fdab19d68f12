"""What float32 promises is let pass, in any order of summation; what is wrong is not."""

import jax.numpy as jnp
import numpy as np
import pytest

from tolerance import assert_equal_but_for_rounding, moved_by_last_bits

TERMS = np.random.default_rng(0).standard_normal((8, 3**3 * 8, 16)).astype("f4")  # of eight shards


def one_by_one(terms):
    return np.add.accumulate(terms.reshape(-1, 16), dtype=np.float32)[-1]


def test_a_sum_in_any_order_is_let_pass():
    exact = TERMS.sum(axis=(0, 1), dtype=np.float64)
    for found in (one_by_one(TERMS), one_by_one(TERMS[::-1, ::-1]), TERMS.sum(axis=1).sum(axis=0)):
        assert_equal_but_for_rounding({"sum": found}, {"sum": exact})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda terms: one_by_one(terms * np.array([1.001, *[1] * 7], "f4")[:, None, None]),  # a shard's mean
        lambda terms: one_by_one(terms[:, 1:]),  # a halo
        lambda terms: np.asarray(jnp.asarray(one_by_one(terms)).astype(jnp.bfloat16), np.float32),
        lambda terms: one_by_one(terms) * np.nan,
        lambda terms: one_by_one(terms)[:8],
    ],
)
def test_what_is_wrong_is_not(wrong):
    with pytest.raises(AssertionError, match=r"\['sum'\]"):
        assert_equal_but_for_rounding({"sum": wrong(TERMS)}, {"sum": one_by_one(TERMS)})


def test_where_terms_cancel_last_bits_tell_how_much_is_let_pass():
    """The logarithm of what is left of terms that cancel, all but a thousandth."""

    def logarithm(terms, order=1):
        return np.log(np.abs(one_by_one((terms - np.roll(terms, 1, axis=1) * np.float32(0.999))[:, ::order])))

    found, expected = logarithm(TERMS, order=-1), logarithm(TERMS)
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding(found, expected)
    moves = moved_by_last_bits(logarithm, TERMS)
    assert_equal_but_for_rounding(found, expected, moves=moves)
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding(expected + 64 * moves, expected, moves=moves)
