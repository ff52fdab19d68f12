import jax
import jax.numpy as jnp
import numpy as np

from medjax.layers.embeddings import LabelEmbedding, TimeEmbedding, cos_sin_embedding, sin_cos_embedding
from tolerance import assert_equal_but_for_rounding


def test_cosines_then_sines():
    t = np.array([0.0, 7.5])
    frequencies = np.array([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])
    expected = np.concatenate([np.cos(t[:, None] * frequencies), np.sin(t[:, None] * frequencies)], axis=1)
    np.testing.assert_allclose(cos_sin_embedding(jnp.asarray(t), 6), expected, atol=1e-6)
    np.testing.assert_allclose(cos_sin_embedding(jnp.asarray(t), 7), np.pad(expected, ((0, 0), (0, 1))), atol=1e-6)


def test_sines_then_cosines_reach_the_longest_period():
    t = np.array([0, 7])
    frequencies = np.array([1.0, 1e-2, 1e-4])
    expected = np.concatenate([np.sin(t[:, None] * frequencies), np.cos(t[:, None] * frequencies)], axis=1)
    np.testing.assert_allclose(sin_cos_embedding(jnp.asarray(t), 6), expected, atol=1e-6)


def test_time_embedding_is_a_hidden_layer():
    t = jnp.array([3, 900])
    y, params = TimeEmbedding(8, 16).init_with_output(jax.random.key(0), t)
    hidden, output = params["params"]["hidden"], params["params"]["output"]
    h = cos_sin_embedding(t, 8) @ hidden["kernel"] + hidden["bias"]
    assert_equal_but_for_rounding(y, (h * jax.nn.sigmoid(h)) @ output["kernel"] + output["bias"])


def test_its_sinusoids_and_activation_are_chosen():
    t = jnp.array([3, 900])
    y, params = TimeEmbedding(8, 16, jnp.float32, sin_cos_embedding, jnp.tanh).init_with_output(jax.random.key(0), t)
    hidden, output = params["params"]["hidden"], params["params"]["output"]
    h = sin_cos_embedding(t, 8) @ hidden["kernel"] + hidden["bias"]
    assert_equal_but_for_rounding(y, jnp.tanh(h) @ output["kernel"] + output["bias"])


def test_labels_have_a_vector_each_and_unknown_ones_share_another():
    label = jnp.array([2, 0, -1, 9, -7])
    vectors, params = LabelEmbedding(3, 5).init_with_output(jax.random.key(0), label)
    table = params["params"]["table"]
    assert table.shape == (4, 5)
    np.testing.assert_array_equal(vectors, table[jnp.array([2, 0, 3, 3, 3])])
