import jax
import jax.numpy as jnp
import pytest
from jax import lax

from medjax.models.unet import UNet
from medjax.xla import flops

X, KERNEL = jnp.zeros((2, 8, 8, 8, 3)), jnp.zeros((3, 3, 3, 3, 5))
ONE_CONVOLUTION = 2 * 2 * 8**3 * 5 * 27 * 3


def convolve(x, kernel, **options):
    return lax.conv_general_dilated(
        x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"), **options
    )


def test_a_convolution_and_both_its_gradients():
    assert flops.count(convolve, X, KERNEL) == ONE_CONVOLUTION
    gradients = jax.grad(lambda x, kernel: convolve(x, kernel).sum(), argnums=(0, 1))
    assert flops.count(gradients, X, KERNEL) == pytest.approx(3 * ONE_CONVOLUTION)


def test_zeros_between_the_numbers_of_a_dilated_input_are_not_multiplied():
    def strided(x, kernel):
        return lax.conv_general_dilated(
            x, kernel, (2, 2, 2), ((1, 0),) * 3, dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
        )

    forward = flops.count(strided, X, KERNEL)
    assert forward == ONE_CONVOLUTION / 8
    backward = flops.count(lambda x, y: jax.vjp(lambda x: strided(x, KERNEL), x)[1](y), X, strided(X, KERNEL))
    assert backward == pytest.approx(2 * forward)  # the forward pass is traced as well


def test_products_loops_branches_and_what_is_recomputed():
    a, b = jnp.zeros((4, 6, 7)), jnp.zeros((4, 7, 5))
    product = 2 * 4 * 6 * 7 * 5
    assert flops.count(lambda a, b: a @ b, a, b) == product
    assert (
        flops.count(lambda a, b: lax.scan(lambda c, _: (c + a @ b, None), jnp.zeros((4, 6, 5)), length=3), a, b)
        == 3 * product
    )
    assert (
        flops.count(lambda a, b: lax.cond(a[0, 0, 0] > 0, lambda: a @ b, lambda: jnp.zeros((4, 6, 5))), a, b) == product
    )
    assert flops.count(jax.jit(jax.checkpoint(lambda a, b: a @ b)), a, b) == product

    def twice_on_tpus(a, b):
        return lax.platform_dependent(a, b, tpu=lambda a, b: a @ b + (a + 1) @ b, default=lambda a, b: a @ b)

    assert flops.count(twice_on_tpus, a, b) == product


def test_the_published_network_takes_what_was_derived_for_it():
    """1.05 TFLOP a volume of 128^3, as derived from its layers by hand."""
    network = UNet(out_channels=8)
    x_t, t = jax.ShapeDtypeStruct((1, 64, 64, 64, 8), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    params = jax.eval_shape(network.init, jax.random.key(0), x_t, t)
    assert flops.count(network.apply, params, x_t, t) == pytest.approx(1.05e12, rel=0.01)
