import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from medjax.layers.attention import SelfAttention
from medjax.layers.fold import refold
from medjax.layers.normalization import GroupNorm
from tolerance import assert_equal_but_for_rounding

C = 12
X = np.random.default_rng(0).standard_normal((2, 2, 2, 4, C)).astype(np.float32)


def random_params(module: SelfAttention) -> dict:
    leaves, tree = jax.tree.flatten(module.init(jax.random.key(0), X))
    generator = np.random.default_rng(1)
    return jax.tree.unflatten(tree, [generator.standard_normal(leaf.shape).astype(np.float32) / 2 for leaf in leaves])


def by_definition(params, heads, order):
    params = params["params"]
    normed = GroupNorm(4).apply({"params": params["norm"]}, X).reshape(2, -1, C)
    qkv = (np.asarray(normed, np.float64) @ params["qkv"]["kernel"] + params["qkv"]["bias"]).reshape(2, -1, 3 * C)
    width, attended = C // heads, []
    for head in range(heads):
        if order == "heads_first":
            q, k, v = (qkv[..., (3 * head + i) * width :][..., :width] for i in range(3))
        else:
            q, k, v = (qkv[..., i * C + head * width :][..., :width] for i in range(3))
        attended.append(softmax(q @ k.swapaxes(1, 2) / np.sqrt(width), axis=-1) @ v)
    out = np.concatenate(attended, axis=-1) @ params["output"]["kernel"] + params["output"]["bias"]
    return X + out.reshape(X.shape)


@pytest.mark.parametrize("order", ["heads_first", "qkv_first"])
@pytest.mark.parametrize(("heads", "fold"), [(1, 1), (3, 1), (2, 4)])
def test_attention(heads, order, fold):
    attention = SelfAttention(heads, order, groups=4, fold=fold)
    params = random_params(SelfAttention(heads, order, groups=4))
    y = attention.apply(params, refold(jnp.asarray(X), 1, fold))
    assert_equal_but_for_rounding(refold(y, fold, 1), by_definition(params, heads, order))


def test_starts_as_the_identity():
    y, _ = SelfAttention(groups=4).init_with_output(jax.random.key(0), X)
    np.testing.assert_array_equal(y, X)


def test_refuses():
    with pytest.raises(ValueError, match="12 channels with 5 heads"):
        SelfAttention(5, groups=4).init(jax.random.key(0), X)
    with pytest.raises(ValueError, match="'q_first'"):
        SelfAttention(qkv_order="q_first", groups=4).init(jax.random.key(0), X)
