import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers import conv_cpu
from medjax.layers.conv_cpu import stacked, winograd_or_stacked
from medjax.layers.lowering import CPURow
from tolerance import assert_equal_but_for_rounding

ONCE, PADDING = (1, 1, 1), ((1, 0), (2, 1), (0, 0))


def operands():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 4, 5, 6, 3)), rng.standard_normal((3, 3, 2, 3, 4))
    return x.astype(np.float32), kernel.astype(np.float32)


def direct(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def test_stacked_has_the_values_and_both_gradients_of_the_direct_way():
    def loss(convolve):
        return jax.jit(jax.value_and_grad(lambda x, k: jnp.sum(jnp.sin(convolve(x, k, ONCE, PADDING))), argnums=(0, 1)))

    assert_equal_but_for_rounding(loss(stacked)(*operands()), loss(direct)(*operands()))


@pytest.mark.parametrize("lowering", ["winograd", "stacked"])
def test_the_table_alone_decides(monkeypatch, lowering):
    monkeypatch.setattr("medjax.layers.lowering.CPU_CONVOLUTIONS", (CPURow(lowering),))
    monkeypatch.setattr(conv_cpu, "stacked", lambda *_: "stacked")
    monkeypatch.setattr(conv_cpu.winograd, "convolve", lambda *_: "winograd")
    assert winograd_or_stacked(*operands(), ONCE, PADDING) == lowering
