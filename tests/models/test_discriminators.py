import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.discriminators import PatchDiscriminator
from on_mesh import on_the_mesh
from test_blocks import randomized
from tolerance import assert_equal_but_for_rounding, moved_by_last_bits

X = np.random.default_rng(0).standard_normal((2, 16, 8, 9, 1)).astype("f4")


def made(network, x):
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    statistics = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["batch_stats"])
    return {"params": randomized(shapes["params"]), "batch_stats": statistics}


def judge(network, variables, x):
    (logits, features), changed = network.apply(variables, x, train=True, mutable=["batch_stats"])
    return logits, features, changed["batch_stats"]


@pytest.mark.parametrize("x", [X, X[:, 0]], ids=["volumes", "slices"])
def test_shapes(x):
    (logits, features), made = jax.eval_shape(PatchDiscriminator(300, 2).init_with_output, jax.random.key(0), x)
    sizes = [x.shape[1:-1]]
    for stride in (2, 2, 1, 1):
        sizes.append(tuple(n // stride + 1 for n in sizes[-1]))
    assert [feature.values.shape[1:] for feature in features] == [
        (*size, width) for size, width in zip(sizes[1:], (300, 512, 512), strict=False)
    ]
    assert logits.shape == (2, *sizes[-1], 1)
    assert made["batch_stats"].keys() == {"norm_1", "norm_2"}  # neither the first layer nor the last


def test_on_a_mesh_that_cuts_volumes_they_stay_cut_and_the_batch_is_one():
    """Patches do not split evenly: 9 planes, then 5, 6 and 7, over 4 devices, are carried in twice as many or more."""
    network = PatchDiscriminator(4, 2, lowering="planes")
    variables = made(network, X)

    def train(x, params):
        def loss(params, x):
            logits, features, stats = judge(network, variables | {"params": params}, x)
            distances = [jnp.mean(jnp.abs(feature.values)) / feature.share for feature in features]
            return jnp.mean(logits**2) + sum(distances), (logits, distances, stats)

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    found, collectives = on_the_mesh(train, X, variables["params"], sizes={"depth": 4, "height": 2})
    whole = jax.jit(train)
    # Norms take away what a bias before them does, up to rounding.
    moves = moved_by_last_bits(whole, X, variables["params"])
    assert_equal_but_for_rounding(found, whole(X, variables["params"]), moves=moves)
    assert not {"all-to-all"} & collectives.keys()
    assert collectives["all-gather"] <= 2  # of the logits


def test_bfloat16_gives_float32():
    network = PatchDiscriminator(4, 1, jnp.bfloat16)
    logits, features, stats = jax.eval_shape(lambda variables: judge(network, variables, X), made(network, X))
    found = [logits, *(feature.values for feature in features), *jax.tree.leaves(stats)]
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}
