import jax
import jax.numpy as jnp
import numpy as np

from medjax.layers.lookup import look_up

TABLE = jax.random.normal(jax.random.key(0), (5, 7))
INDICES = jnp.array([[3, 0, 3], [4, 4, 1]])
WEIGHTS = jax.random.normal(jax.random.key(1), (2, 3, 7))


def test_is_the_row_to_the_bit():
    np.testing.assert_array_equal(look_up(TABLE, INDICES), TABLE[INDICES])


def test_its_gradient_is_that_of_an_index_without_a_scatter():
    gradient = jax.jit(jax.grad(lambda table: jnp.sum(WEIGHTS * look_up(table, INDICES))))
    expected = jax.grad(lambda table: jnp.sum(WEIGHTS * table[INDICES]))(TABLE)
    np.testing.assert_allclose(gradient(TABLE), expected, rtol=1e-6, atol=1e-6)
    assert "scatter" not in gradient.lower(TABLE).as_text()
