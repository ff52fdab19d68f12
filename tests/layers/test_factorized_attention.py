import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from medjax.layers.factorized_attention import DepthAttention, LinearAttention, SliceAttention
from medjax.layers.rotary import rotate_along_depth
from tolerance import assert_equal_but_for_rounding

C, HEADS, WIDTH = 12, 2, 6
X = np.random.default_rng(0).standard_normal((2, 3, 2, 4, C)).astype(np.float32)
BIAS = np.random.default_rng(1).standard_normal((HEADS, 3, 3)).astype(np.float32)


def random_params(module, *arguments):
    leaves, tree = jax.tree.flatten(module.init(jax.random.key(0), *arguments))
    generator = np.random.default_rng(2)
    return jax.tree.unflatten(tree, [generator.standard_normal(leaf.shape).astype(np.float32) / 2 for leaf in leaves])


def parts_of(params):
    """Queries, keys and values [B, D, H, W, heads, WIDTH] by definition."""
    x = X.astype(np.float64)
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * params["norm"]["scale"]
    qkv = (normed @ params["qkv"]["kernel"]).reshape(*X.shape[:4], 3, HEADS, WIDTH)
    return (qkv[..., i, :, :] for i in range(3))


def result_of(params, attended):
    output = params["output"]
    return X + attended.reshape(*X.shape[:4], -1) @ output["kernel"] + output.get("bias", 0)


def test_linear_attention():
    attention = LinearAttention(HEADS, WIDTH)
    params = random_params(attention, X)
    query, key, value = parts_of(params["params"])
    summary = np.einsum("bdhwnc,bdhwne->bdnce", softmax(key, axis=(2, 3)), value)
    expected = np.einsum("bdhwnc,bdnce->bdhwne", softmax(query, axis=-1) / np.sqrt(WIDTH), summary)
    assert "bias" in params["params"]["output"]
    assert_equal_but_for_rounding(attention.apply(params, X), result_of(params["params"], expected))


def test_slice_attention():
    attention = SliceAttention(HEADS, WIDTH)
    params = random_params(attention, X)
    query, key, value = (part.reshape(2, 3, 8, HEADS, WIDTH) for part in parts_of(params["params"]))
    weights = softmax(np.einsum("bdqnc,bdknc->bdnqk", query, key) / np.sqrt(WIDTH), axis=-1)
    expected = np.einsum("bdnqk,bdknc->bdqnc", weights, value)
    assert_equal_but_for_rounding(attention.apply(params, X), result_of(params["params"], expected))


def test_depth_attention():
    attention = DepthAttention(HEADS, WIDTH)
    params = random_params(attention, X, BIAS)
    query, key, value = parts_of(params["params"])
    query, key = (np.asarray(rotate_along_depth(jnp.asarray(part, jnp.float32), WIDTH)) for part in (query, key))
    logits = np.einsum("bqhwnc,bkhwnc->bhwnqk", query, key) / np.sqrt(WIDTH) + BIAS
    expected = np.einsum("bhwnqk,bkhwnc->bqhwnc", softmax(logits, axis=-1), value)
    assert_equal_but_for_rounding(attention.apply(params, X, BIAS), result_of(params["params"], expected))


def test_only_the_first_features_of_a_wide_head_tell_the_position():
    """Two slices that differ in nothing but their place attend alike through features that are not rotated."""
    attention = DepthAttention(1, 40)
    same = np.broadcast_to(X[:, :1], X.shape)
    params = random_params(attention, same, BIAS[:1])
    kernel = params["params"]["qkv"]["kernel"]
    narrow = kernel.copy()
    narrow[:, [*range(32), *range(40, 72)]] = 0  # no query and no key where it is rotated
    spread = {}
    for name, each in {"rotated": kernel, "not": narrow}.items():
        changed = {"params": params["params"] | {"qkv": {"kernel": each}}}
        value = np.random.default_rng(3).standard_normal(X.shape).astype(np.float32)
        first, second = (attention.apply(changed, np.roll(value, shift, axis=1), 0 * BIAS[:1]) for shift in (0, 1))
        spread[name] = np.abs(np.roll(first, 1, axis=1) - second).max()
    assert spread["not"] < 1e-4 < 1e-2 < spread["rotated"]


@pytest.mark.parametrize("layer", [LinearAttention, SliceAttention, DepthAttention])
def test_bfloat16_is_close_and_stays_bfloat16(layer):
    bias = (BIAS,) if layer is DepthAttention else ()
    params = random_params(layer(HEADS, WIDTH), X, *bias)
    exact = layer(HEADS, WIDTH).apply(params, X, *bias)
    rounded = layer(HEADS, WIDTH, jnp.bfloat16).apply(params, jnp.asarray(X, jnp.bfloat16), *bias)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.05 * np.abs(exact).max())


def test_refuses_heads_that_cannot_be_rotated():
    with pytest.raises(ValueError, match="heads of 5 channels"):
        DepthAttention(HEADS, 5).init(jax.random.key(0), X, BIAS)
