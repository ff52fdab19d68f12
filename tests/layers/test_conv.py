import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.conv import LOWERINGS, Conv, conv3d, same_padding
from medjax.layers.fold import refold
from tolerance import assert_equal_but_for_rounding

# kernel, strides, padding, W: what the two systems use, and some asymmetric ones.
CASES = {
    "3x3x3": ((3, 3, 3), (1, 1, 1), ((1, 1),) * 3, 8),
    "1x1x1": ((1, 1, 1), (1, 1, 1), ((0, 0),) * 3, 8),
    "stride 2": ((3, 3, 3), (2, 2, 2), ((1, 1),) * 3, 8),
    "stride 2 in slices": ((3, 3, 3), (1, 2, 2), ((1, 1),) * 3, 16),
    "in slices": ((1, 7, 7), (1, 1, 1), ((0, 0), (3, 3), (3, 3)), 8),
    "kernel 4 stride 2": ((4, 4, 4), (2, 2, 2), ((1, 1),) * 3, 16),
    "kernel 4": ((4, 4, 4), (1, 1, 1), ((2, 1),) * 3, 8),
    "one-sided": ((2, 3, 5), (1, 2, 1), ((0, 1), (2, 0), (4, 0)), 8),
}

WAYS = [*((lowering, 1) for lowering in LOWERINGS), *((lowering, 2) for lowering in LOWERINGS)]


def operands(kernel_size, width, channels=3, features=5):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((2, 6, 8, width, channels)).astype(np.float32)
    kernel = generator.standard_normal((*kernel_size, channels, features)).astype(np.float32)
    return x, kernel / np.sqrt(kernel[..., 0].size)


def by_definition(x, kernel, strides, padding):
    """The cross-correlation, one kernel tap at a time, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    size = [(n - k) // s + 1 for n, k, s in zip(x.shape[1:4], kernel.shape, strides, strict=False)]
    total = 0
    for tap in np.ndindex(kernel.shape[:3]):
        slices = [slice(o, o + (n - 1) * s + 1, s) for o, n, s in zip(tap, size, strides, strict=True)]
        total = total + x[:, slices[0], slices[1], slices[2]] @ kernel[tap]
    return total


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("lowering", "fold"), WAYS)
def test_is_a_convolution(case, lowering, fold):
    kernel_size, strides, padding, width = CASES[case]
    x, kernel = operands(kernel_size, width)
    expected = by_definition(x, kernel, strides, padding)
    y = conv3d(refold(jnp.asarray(x), 1, fold), jnp.asarray(kernel), strides, padding, lowering, fold)
    assert_equal_but_for_rounding(refold(y, fold, 1), expected)


@pytest.mark.parametrize(("fill", "mode"), [("replicate", "edge"), ("reflect", "reflect"), ("circular", "wrap")])
@pytest.mark.parametrize("lowering", LOWERINGS)
def test_what_lies_beyond_the_ends(lowering, fill, mode):
    kernel_size, strides = (4, 4, 3), (2, 1, 1)
    padding = same_padding(kernel_size, strides)
    assert padding == ((1, 1), (2, 1), (1, 1))
    x, kernel = operands(kernel_size, 8)
    filled = np.pad(x, ((0, 0), *padding, (0, 0)), mode=mode)
    y = conv3d(x, kernel, strides, padding, lowering, fill=fill)
    assert_equal_but_for_rounding(y, by_definition(filled, kernel, strides, ((0, 0),) * 3))
    layer = Conv(5, kernel_size, strides, padding, fill=fill, lowering=lowering)
    assert_equal_but_for_rounding(layer.apply({"params": {"kernel": kernel, "bias": jnp.zeros(5)}}, x), y)


@pytest.mark.parametrize("case", ["3x3x3", "stride 2", "kernel 4", "in slices", "one-sided"])
@pytest.mark.parametrize(("lowering", "fold"), WAYS[1:])
def test_gradients_are_those_of_direct(case, lowering, fold):
    kernel_size, strides, padding, width = CASES[case]
    x, kernel = operands(kernel_size, width)

    def loss(x, kernel, lowering, fold):
        y = refold(conv3d(refold(x, 1, fold), kernel, strides, padding, lowering, fold), fold, 1)
        return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape) / y.size)

    gradients = [jax.grad(loss, argnums=(0, 1))(x, kernel, *how) for how in [("direct", 1), (lowering, fold)]]
    assert_equal_but_for_rounding(gradients[1], gradients[0])


def test_layer_adds_its_bias_and_keeps_its_parameters_whatever_the_fold():
    x, _ = operands((3, 3, 3), 8)
    conv = Conv(features=5)
    params = conv.init(jax.random.key(0), x)
    params["params"]["bias"] = jnp.arange(5.0)
    expected = by_definition(x, params["params"]["kernel"], (1, 1, 1), ((1, 1),) * 3) + np.arange(5.0)
    for lowering, fold in WAYS:
        conv = Conv(features=5, lowering=lowering, fold=fold)
        folded = refold(jnp.asarray(x), 1, fold)
        assert jax.tree.map(jnp.shape, conv.init(jax.random.key(0), folded)) == jax.tree.map(jnp.shape, params)
        assert_equal_but_for_rounding(refold(conv.apply(params, folded), fold, 1), expected)


def test_computes_in_the_dtype_it_is_told():
    x, _ = operands((3, 3, 3), 8)
    y, params = Conv(features=5, dtype=jnp.bfloat16).init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert params["params"]["kernel"].dtype == jnp.float32


def test_refuses():
    x, kernel = operands((3, 3, 3), 6)
    with pytest.raises(ValueError, match=r"'fourier'.*direct, planes, stacked, winograd"):
        conv3d(x, kernel, (1, 1, 1), ((1, 1),) * 3, lowering="fourier")
    with pytest.raises(ValueError, match=r"width of 3.*folded by 2"):
        conv3d(refold(jnp.asarray(x), 1, 2), kernel, (2, 2, 2), ((1, 1),) * 3, fold=2)
    with pytest.raises(ValueError, match=r"'mirror'.*zeros, replicate, reflect, circular"):
        conv3d(x, kernel, (1, 1, 1), ((1, 1),) * 3, fill="mirror")
    with pytest.raises(ValueError, match=r"'replicate'.*of folded volumes, zeros"):
        conv3d(refold(jnp.asarray(x), 1, 2), kernel, (1, 1, 1), ((1, 1),) * 3, fold=2, fill="replicate")
