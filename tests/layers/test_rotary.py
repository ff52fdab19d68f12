import jax.numpy as jnp
import numpy as np

from medjax.layers.rotary import frequencies, rotate_along_depth

X = np.random.default_rng(0).standard_normal((2, 5, 1, 2, 3, 10)).astype(np.float32)


def test_pairs_turn_by_their_frequency_times_the_position():
    turned = rotate_along_depth(jnp.asarray(X), 8)
    position, pair = 3, 2
    angle = position * 10_000 ** (-2 * pair / 8)
    a, b = X[:, position, ..., 2 * pair], X[:, position, ..., 2 * pair + 1]
    found = turned[:, position, ..., 2 * pair : 2 * pair + 2]
    np.testing.assert_allclose(found[..., 0], a * np.cos(angle) - b * np.sin(angle), atol=1e-6)
    np.testing.assert_allclose(found[..., 1], a * np.sin(angle) + b * np.cos(angle), atol=1e-6)
    np.testing.assert_array_equal(turned[..., 8:], X[..., 8:])
    np.testing.assert_array_equal(turned[:, 0], X[:, 0])


def test_products_depend_on_the_distance_alone():
    query, key = (np.broadcast_to(X[:1, i : i + 1], (1, 40, 1, 2, 3, 10)) for i in (0, 1))
    query, key = (rotate_along_depth(jnp.asarray(each), 10)[0, :, 0, 0, 0] for each in (query, key))
    products = query @ key.T
    np.testing.assert_allclose(products[7:, 7:], products[:-7, :-7], atol=2e-5)
    assert np.abs(products[0] - products[0, 0])[1:].max() > 0.1


def test_frequencies_fall_to_the_longest_period():
    np.testing.assert_allclose(frequencies(4), [1, 1e-2], rtol=1e-6)
    assert frequencies(32).dtype == np.float32


def test_bfloat16_turns_in_float32():
    far = np.broadcast_to(X[:1, :1], (1, 300, 1, 2, 3, 10))
    exact = rotate_along_depth(jnp.asarray(far), 10)
    rounded = rotate_along_depth(jnp.asarray(far, jnp.bfloat16), 10)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        rounded.astype(jnp.float32), exact, atol=0.03
    )  # angles up to 300 keep no digit in bfloat16
