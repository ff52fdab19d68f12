"""The codebook against its definition: every latent compared with every code, one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models import codebook as codebooks
from medjax.models.codebook import Draw
from on_mesh import on_the_mesh

CODES, CHANNELS = 12, 3
LATENTS = np.random.default_rng(0).standard_normal((2, 4, 4, 3, CHANNELS)).astype("f4")
ROWS = LATENTS.reshape(-1, CHANNELS)
OPTIONS = {"decay": 0.9, "restart_threshold": 0.0, "restart_statistics": True}


def some_codebook() -> codebooks.Codebook:
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((CODES, CHANNELS)).astype("f4")
    counts = rng.uniform(0.5, 9, CODES).astype("f4")
    book = {"embeddings": embeddings, "counts": counts, "sums": embeddings * counts[:, None], "initialized": True}
    return jax.tree.map(jnp.asarray, book)


def by_definition(embeddings: np.ndarray) -> np.ndarray:
    distances = np.linalg.norm(ROWS[:, None].astype("f8") - np.asarray(embeddings, "f8"), axis=-1)
    return distances.argmin(axis=1)


def drawing(seed: int, latents: int = len(ROWS), codes: int = CODES) -> Draw:
    return codebooks.draw(jax.random.key(seed), latents, codes, CHANNELS)


@pytest.mark.parametrize("at_once", [2**24, 5 * CODES])
def test_nearest_whatever_is_compared_at_a_time(at_once, monkeypatch):
    monkeypatch.setattr(codebooks, "MOST_DISTANCES", at_once)
    book = some_codebook()
    codes = codebooks.nearest(book["embeddings"], jnp.asarray(LATENTS))
    assert codes.shape == LATENTS.shape[:-1]
    np.testing.assert_array_equal(codes.reshape(-1), by_definition(book["embeddings"]))
    np.testing.assert_array_equal(codebooks.quantize(book, jnp.asarray(LATENTS)), book["embeddings"][codes])


def test_no_array_of_all_latents_by_all_codes():
    codes, latents = jnp.zeros((16_384, 8)), jnp.zeros((1, 32, 32, 16, 8))
    compiled = jax.jit(codebooks.nearest).lower(codes, latents).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 256 * 2**20 < 16_384 * 32 * 32 * 16 * 4


def test_the_first_of_equals():
    book = jnp.array([[1.0, 0, 0], [0, 1.0, 0], [1.0, 0, 0]])
    assert codebooks.nearest(book, jnp.array([1.0, 0, 0]).reshape(1, 1, 1, 1, 3)).item() == 0


def test_codes_follow_the_mean_of_their_latents():
    book, codes = some_codebook(), by_definition(some_codebook()["embeddings"])
    learned = codebooks.learn(book, jnp.asarray(LATENTS), drawing(0), drawing(1), **OPTIONS)
    used = np.bincount(codes, minlength=CODES)
    sums = np.zeros((CODES, CHANNELS))
    np.add.at(sums, codes, ROWS)
    counts, sums = 0.9 * np.asarray(book["counts"]) + 0.1 * used, 0.9 * np.asarray(book["sums"]) + 0.1 * sums
    np.testing.assert_array_equal(learned.used, used)
    np.testing.assert_allclose(learned.codebook["counts"], counts, rtol=1e-6)
    np.testing.assert_allclose(learned.codebook["sums"], sums, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(learned.codebook["embeddings"], sums / counts[:, None], rtol=1e-5, atol=1e-6)
    assert learned.restarted == 0
    np.testing.assert_allclose(
        learned.distance, ((ROWS - np.asarray(book["embeddings"])[codes]) ** 2).mean(), rtol=1e-5
    )


def test_gradients_pass_the_codes_and_pull_latents_to_them():
    book, weights = some_codebook(), np.random.default_rng(2).standard_normal(LATENTS.shape).astype("f4")

    def loss(latents):
        learned = codebooks.learn(book, latents, drawing(0), drawing(1), **OPTIONS)
        return jnp.sum(learned.quantized * weights) + learned.distance

    nearest = codebooks.quantize(book, jnp.asarray(LATENTS))
    expected = weights + 2 * (LATENTS - nearest) / LATENTS.size
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(LATENTS)), expected, rtol=1e-5, atol=1e-6)


def test_it_begins_with_latents_of_the_first_batch_and_only_then():
    empty = codebooks.empty(jax.random.key(0), CODES, CHANNELS)
    assert not empty["initialized"]
    first = codebooks.initialize(empty, jnp.asarray(LATENTS), drawing(0))
    assert first["initialized"]
    assert len(np.unique(first["embeddings"], axis=0)) == CODES  # different ones
    assert {tuple(row) for row in np.asarray(first["embeddings"])} <= {tuple(row) for row in ROWS}
    np.testing.assert_array_equal(first["counts"], 1)
    again = codebooks.initialize(first, jnp.asarray(LATENTS), drawing(1))
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), first, again)))


def test_more_codes_than_latents_are_the_same_latents_a_little_apart():
    draw = drawing(0, latents=5, codes=CODES)
    assert set(np.bincount(draw.rows, minlength=5)) <= {1, 2, 3}  # each thrice, of which the first twelve
    assert 0 < np.abs(draw.noise).max() < 0.05
    np.testing.assert_array_equal(drawing(0).noise, 0)


@pytest.mark.parametrize("restart_statistics", [True, False])
def test_restarts(restart_statistics):
    """A code that is used too seldom becomes a latent; with its statistics it stays there, as published it goes back."""
    book, latents = some_codebook(), jnp.asarray(LATENTS)
    book["counts"] = book["counts"].at[4].set(1e-3)
    book["embeddings"] = book["embeddings"].at[4].set(100.0)
    book["sums"] = book["embeddings"] * book["counts"][:, None]
    options = OPTIONS | {"restart_threshold": 0.01, "restart_statistics": restart_statistics}
    learned = codebooks.learn(book, latents, drawing(0), drawing(1), **options)
    fresh = codebooks.gather_latents(latents, drawing(1))[4]
    assert learned.restarted == 1
    np.testing.assert_array_equal(learned.codebook["embeddings"][4], fresh)
    assert learned.codebook["counts"][4] == (1.0 if restart_statistics else np.float32(0.9) * np.float32(1e-3))
    after = codebooks.update(
        learned.codebook, jnp.zeros(CODES), jnp.zeros((CODES, CHANNELS)), fresh, **options | {"restart_threshold": 0.0}
    )[0]
    np.testing.assert_allclose(after["embeddings"][4], fresh if restart_statistics else 100.0, rtol=2e-3)


def test_perplexity():
    np.testing.assert_allclose(codebooks.perplexity(jnp.full((7,), 3.0)), 7, rtol=1e-5)
    np.testing.assert_allclose(codebooks.perplexity(jnp.array([0.0, 5.0])), 1, rtol=1e-5)


@pytest.mark.parametrize("sizes", [{"data": 2, "depth": 2, "height": 2}, {"fsdp": 2, "depth": 2}])
def test_on_a_mesh_it_learns_the_same_and_gathers_no_latents(sizes):
    sizes = {"data": 1, "fsdp": 1, "depth": 1, "height": 1} | sizes
    empty = codebooks.empty(jax.random.key(0), CODES, CHANNELS)

    def learn(latents, book):
        options = OPTIONS | {"restart_threshold": 2.5, "restart_statistics": False}
        first = codebooks.learn(book, latents, drawing(0), drawing(1), **options).codebook
        return codebooks.learn(first, latents * 1.3, drawing(2), drawing(3), **options)

    found, collectives = on_the_mesh(learn, LATENTS, empty, sizes=sizes)
    expected = learn(jnp.asarray(LATENTS), empty)
    assert expected.restarted > 0
    for name, a, b in zip(expected._fields, expected, found, strict=True):
        jax.tree.map(lambda a, b, name=name: np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6, err_msg=name), a, b)
    assert not {"all-gather", "all-to-all"} & collectives.keys()
