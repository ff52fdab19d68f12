import jax
import jax.numpy as jnp
import numpy as np

from medjax.layers.batch_norm import BatchNorm
from tolerance import assert_equal_but_for_rounding

X = (np.random.default_rng(0).standard_normal((3, 4, 5, 2)) * [1.0, 3.0] + [5.0, -2.0]).astype("f4")
PARAMS = {"scale": jnp.array([2.0, 0.5]), "bias": jnp.array([1.0, -1.0])}


def variables():
    return {"params": PARAMS, "batch_stats": {"mean": jnp.array([0.5, 0.25]), "var": jnp.array([2.0, 4.0])}}


def test_training_normalizes_by_the_batch_and_remembers_a_tenth_of_it():
    y, changed = BatchNorm().apply(variables(), X, True, mutable=["batch_stats"])
    rows = X.reshape(-1, 2).astype("f8")
    expected = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5) * PARAMS["scale"] + PARAMS["bias"]
    assert_equal_but_for_rounding(np.reshape(y, (-1, 2)), expected)
    stats = changed["batch_stats"]
    assert_equal_but_for_rounding(stats["mean"], 0.9 * np.array([0.5, 0.25]) + 0.1 * rows.mean(0))
    assert_equal_but_for_rounding(stats["var"], 0.9 * np.array([2.0, 4.0]) + 0.1 * rows.var(0, ddof=1))


def test_otherwise_it_normalizes_by_what_it_remembers():
    y = BatchNorm().apply(variables(), X, False)
    expected = (X - [0.5, 0.25]) / np.sqrt(np.array([2.0, 4.0]) + 1e-5) * PARAMS["scale"] + PARAMS["bias"]
    assert_equal_but_for_rounding(y, expected)


def test_initialization_leaves_the_statistics_alone_and_half_precision_is_only_outside():
    made = BatchNorm().init(jax.random.key(0), X, True)
    np.testing.assert_array_equal(made["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(made["batch_stats"]["var"], 1)
    y, changed = BatchNorm().apply(variables(), X.astype(jnp.bfloat16), True, mutable=["batch_stats"])
    assert y.dtype == jnp.bfloat16
    assert changed["batch_stats"]["var"].dtype == jnp.float32
