import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers import winograd
from medjax.layers.conv import conv3d
from on_mesh import on_the_mesh
from tolerance import assert_equal_but_for_rounding

ONCE, SAME = (1, 1, 1), ((1, 1),) * 3

# The shape of x, features, padding: even and odd outputs, one plane, no padding where halos are in place, and too much of it.
CASES = {
    "even": ((2, 6, 8, 4, 3), 5, SAME),
    "odd": ((2, 5, 7, 3, 4), 2, SAME),
    "without padding of D": ((1, 6, 4, 6, 3), 3, ((0, 0), (1, 1), (1, 1))),
    "one plane": ((2, 3, 6, 6, 2), 3, ((0, 0), (0, 0), (1, 1))),
    "one-sided": ((1, 4, 5, 6, 2), 3, ((0, 2), (2, 1), (3, 0))),
}


def operands(shape, features):
    generator = np.random.default_rng(0)
    kernel = generator.standard_normal((3, 3, 3, shape[-1], features)) / np.sqrt(27 * shape[-1])
    return jnp.asarray(generator.standard_normal(shape), jnp.float32), jnp.asarray(kernel, jnp.float32)


# How many results of a product are made at once: all of them, those of two planes, and, forward with 50 and backward with 400,
# of four, where that leaves the last turn less to do.
@pytest.mark.parametrize("block", [winograd.BLOCK, 20, 50, 400])
@pytest.mark.parametrize("case", CASES)
def test_is_a_convolution_and_so_are_its_gradients(case, block, monkeypatch):
    monkeypatch.setattr(winograd, "BLOCK", block)
    shape, features, padding = CASES[case]
    x, kernel = operands(shape, features)
    ways = [lambda x, kernel: conv3d(x, kernel, ONCE, padding), lambda x, kernel: winograd.convolve(x, kernel, padding)]
    results = [jax.vjp(jax.jit(way), x, kernel) for way in ways]
    assert_equal_but_for_rounding(results[1][0], results[0][0])
    dy = jnp.sin(jnp.arange(results[0][0].size, dtype=jnp.float32)).reshape(results[0][0].shape)
    expected, found = (gradients_of(dy) for _, gradients_of in results)
    assert_equal_but_for_rounding(found, expected)


@pytest.mark.parametrize(
    ("batch", "size", "rows", "expected"),
    [
        (1, (64, 64, 64), 2048, (4, 16)),
        (1, (32, 32, 32), 1024, (8, 4)),
        (8, (64, 64, 64), 2048, (2, 32)),  # two planes have more than enough
        (1, (8, 8, 8), 0, (2, 4)),  # so many features that one cube has
        (1, (8, 8, 8), 512, (8, 1)),  # all have too few
        (1, (10, 64, 64), 2048, (6, 2)),  # 5 pairs as 3 and 2, and one more that is dropped
        (1, (5, 3, 3), 1, (2, 3)),
    ],
)
def test_planes_are_made_as_many_at_a_time_as_products_want(batch, size, rows, expected):
    assert winograd._planes_at_a_time(batch, size, rows) == expected


def takes_winograd(x, kernel, strides=ONCE, padding=SAME):
    traced = jax.make_jaxpr(lambda x, kernel: conv3d(x, kernel, strides, padding, "winograd"))(x, kernel)
    return "conv_general_dilated" not in str(traced)


def test_is_taken_where_it_can_be_and_pays():
    x, kernel = operands((1, 8, 8, 8, 64), 64)
    assert takes_winograd(x, kernel)
    assert not takes_winograd(x, kernel, strides=(2, 2, 2))
    assert not takes_winograd(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert not takes_winograd(x, kernel[:1, :1, :1], padding=((0, 0),) * 3)
    assert_equal_but_for_rounding(conv3d(x, kernel, ONCE, SAME, "winograd"), conv3d(x, kernel, ONCE, SAME))


def test_is_not_taken_where_little_is_to_be_saved():
    assert not takes_winograd(*operands((1, 8, 8, 8, 64), 48))
    assert not takes_winograd(*operands((1, 4, 4, 4, 256), 256))  # kernels are most of it
    assert not takes_winograd(*operands((1, 64, 64, 64, 1), 512))  # and transforms here
    assert takes_winograd(*operands((1, 16, 16, 16, 16), 32))
    assert not takes_winograd(*operands((1, 16, 16, 16, 16), 16))


def test_of_a_volume_that_is_cut_it_fetches_halos_only():
    x, kernel = operands((2, 16, 16, 8, 64), 64)
    assert takes_winograd(x[:1, :8, :8], kernel)  # a shard

    def convolution(x, kernel):
        return conv3d(x, kernel, ONCE, SAME, "winograd")

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(convolution(x, kernel))), argnums=(0, 1))(x, kernel)

    y, found = on_the_mesh(convolution, x, kernel)
    assert_equal_but_for_rounding(y, convolution(x, kernel))
    assert found == {"collective-permute": 4}
    split, found = on_the_mesh(gradients, x, kernel)
    assert_equal_but_for_rounding(split, gradients(x, kernel))
    assert set(found) == {"collective-permute", "all-reduce"}
