from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.conv import LOWERINGS, conv3d
from medjax.layers.fold import refold
from medjax.layers.lowering import MACHINES, TABLE, TPU_KINDS, Way, cpu_lowering_for, lowering_for, machine_of, way_for
from on_mesh import on_the_mesh
from tolerance import assert_equal_but_for_rounding

ONCE, SAME = (1, 1, 1), ((1, 1),) * 3
WAYS = sorted({row.way for rows in TABLE.values() for row in rows} - {Way("direct")}, key=str)


def convolved(way, x, kernel):
    return refold(conv3d(refold(x, 1, way.fold), kernel, ONCE, SAME, way.lowering, way.fold), way.fold, 1)


def operands():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 8, 8, 8, 3)), rng.standard_normal((3, 3, 3, 3, 4)) / 9
    return jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)


def result_and_gradients(way):
    def loss(x, kernel):
        y = convolved(way, x, kernel)
        return jnp.sum(jnp.sin(y)), y

    (_, y), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(*operands())
    return y, *gradients


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_of_the_table_gives_what_direct_gives(way):
    assert_equal_but_for_rounding(result_and_gradients(way), result_and_gradients(Way("direct")))


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_of_the_table_fetches_halos_only(way):
    x, kernel = operands()
    y, found = on_the_mesh(lambda x, kernel: convolved(way, x, kernel), x, kernel)
    assert_equal_but_for_rounding(y, convolved(way, x, kernel))
    assert found == {"collective-permute": 4}


def test_a_level_gets_the_first_row_that_holds_it():
    assert way_for("v5e", 64, (64, 64, 64)) == Way("planes", 2)
    assert way_for("v5e", 32, (64, 64, 64)) == Way("planes", 4)
    assert way_for("v5e", 128, (32, 32, 32)) == Way("planes")
    assert way_for("v5e", 64, (8, 8, 8)) == Way("direct")
    assert way_for("v5e", 64, (32, 8, 8)) == Way("planes", 2)
    assert way_for("cpu", 64, (64, 64, 64)) == Way("winograd")
    assert way_for("gpu", 64, (64, 64, 64)) == Way("direct")


def test_a_single_convolution_on_a_cpu_gets_the_first_row_that_holds_it():
    def lowering(shape=(1, 8, 8, 8), taps=(3, 3, 3), channels=(64, 64), strides=(1, 1, 1), dtype=jnp.float32):
        return cpu_lowering_for(shape, (*taps, *channels), strides, jnp.dtype(dtype))

    assert lowering() == lowering(shape=(8, 16, 4, 1)) == lowering((1, 64, 64, 64), channels=(8, 64)) == "winograd"
    for other in (
        {"shape": (1, 8, 8, 7)},
        {"taps": (1, 1, 1)},
        {"taps": (1, 3, 3)},
        {"channels": (64, 63)},
        {"shape": (1, 64, 64, 64), "channels": (7, 128)},
        {"shape": (1, 64, 64, 64), "channels": (8, 63)},
        {"strides": (1, 2, 2)},
        {"dtype": jnp.bfloat16},
    ):
        assert lowering(**other) == "stacked", other


def test_a_width_that_cannot_be_folded_is_not():
    assert way_for("v5e", 64, (64, 64, 33)) == Way("planes", 1)


def test_every_machine_has_a_way_for_every_level():
    for machine in MACHINES:
        assert lowering_for(machine) in LOWERINGS
        assert way_for(machine, 10**6, (10**6,) * 3).lowering == lowering_for(machine)


def test_machines_by_their_devices():
    def machine(platform, kind):
        return machine_of(SimpleNamespace(platform=platform, device_kind=kind))

    assert machine_of(jax.devices("cpu")[0]) == "cpu"
    assert machine("gpu", "NVIDIA H200") == machine("rocm", "MI300") == "gpu"
    assert {machine("tpu", kind) for kind in TPU_KINDS} == {"v4", "v5e", "v5p", "v6e"}
    assert machine("tpu", "TPU v5 lite") == "v5e"
    assert machine("tpu", "TPU v9") == "v6e"  # one not known yet is likest to the newest
