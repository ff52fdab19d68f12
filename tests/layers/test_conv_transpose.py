import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from medjax.layers.conv import LOWERINGS, same_padding
from medjax.layers.conv_transpose import ConvTranspose, conv_transpose3d
from on_mesh import on_the_mesh
from tolerance import assert_equal_but_for_rounding

STRIDES = [(2, 2, 2), (1, 2, 2), (2, 1, 1), (1, 1, 1)]


def operands(channels=3, features=4):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 8, 5, channels)).astype("f4")
    return x, (rng.standard_normal((4, 4, 4, channels, features)) / np.sqrt(8 * channels)).astype("f4")


def direct(x, kernel, strides):
    """The transposed convolution itself: zeros between the voxels, then a convolution with the flipped kernel."""
    x = jnp.pad(x, ((0, 0), *same_padding((4, 4, 4), strides), (0, 0)), mode="edge")
    layout = ("NDHWC", "DHWIO", "NDHWC")
    flipped = kernel[::-1, ::-1, ::-1]
    return lax.conv_general_dilated(
        x, flipped, (1, 1, 1), ((0, 0),) * 3, lhs_dilation=strides, dimension_numbers=layout
    )


def gradients(function, x, kernel, *how):
    def loss(x, kernel):
        y = function(x, kernel, *how)
        return jnp.sum(jnp.sin(y) * jnp.arange(y.size).reshape(y.shape) / y.size)

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)


@pytest.mark.parametrize(
    ("strides", "lowering"),
    [*((strides, "direct") for strides in STRIDES), *(((1, 2, 2), lowering) for lowering in LOWERINGS[1:])],
)
def test_is_the_transposed_convolution(strides, lowering):
    x, kernel = operands()
    y = conv_transpose3d(x, kernel, strides, lowering)
    assert y.shape == (2, *(n * s for n, s in zip((8, 8, 5), strides, strict=True)), 4)
    assert_equal_but_for_rounding(y, direct(x, kernel, strides))
    assert_equal_but_for_rounding(
        gradients(conv_transpose3d, x, kernel, strides, lowering), gradients(direct, x, kernel, strides)
    )


@pytest.mark.parametrize("strides", STRIDES)
def test_of_a_cut_volume_fetches_halos_only(strides):
    x, kernel = operands()
    y, found = on_the_mesh(lambda x, kernel: conv_transpose3d(x, kernel, strides), x, kernel)
    assert_equal_but_for_rounding(y, conv_transpose3d(x, kernel, strides))
    assert found == {"collective-permute": 4}
    split, _ = on_the_mesh(lambda *a: gradients(conv_transpose3d, *a, strides), x, kernel)
    assert_equal_but_for_rounding(split, gradients(conv_transpose3d, x, kernel, strides))


def test_layer_stores_the_kernel_as_it_is_transposed_and_adds_its_bias():
    x, kernel = operands()
    layer = ConvTranspose(features=4, strides=(2, 1, 2))
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(layer.init, jax.random.key(0), x))
    assert shapes == {"params": {"kernel": (4, 4, 4, 3, 4), "bias": (4,)}}
    y = jax.jit(layer.apply)({"params": {"kernel": kernel, "bias": jnp.arange(4.0)}}, x)
    assert_equal_but_for_rounding(y, direct(x, kernel, (2, 1, 2)) + np.arange(4.0))
    half = layer.clone(dtype=jnp.bfloat16)
    assert jax.eval_shape(half.init_with_output, jax.random.key(0), x)[0].dtype == jnp.bfloat16


@pytest.mark.parametrize(("kernel", "strides"), [((3, 3, 3), (2, 2, 2)), ((4, 4, 4), (2, 4, 2))])
def test_refuses(kernel, strides):
    with pytest.raises(ValueError, match="give 4, and 1 or 2"):
        conv_transpose3d(np.zeros((1, 4, 4, 4, 1)), np.zeros((*kernel, 1, 1)), strides)
