"""Functions compiled for a mesh, with the options that its devices want."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.runtime import programs
from medjax.runtime.mesh import make_mesh
from medjax.xla import flops

ONE = {"data": 1, "fsdp": 1, "depth": 1, "height": 1}


@dataclasses.dataclass(frozen=True)
class GPU:
    id: int
    process_index: int = 0
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


def test_convolutions_are_channels_last_on_gpus_alone():
    assert programs.options_for(make_mesh(ONE)) == {}
    one = programs.options_for(make_mesh(ONE, [GPU(0)]))
    assert one == {"xla_gpu_force_conv_nhwc": True}
    several = programs.options_for(make_mesh(ONE | {"data": 2}, [GPU(0), GPU(1)]))
    assert one.items() < several.items() and "xla_gpu_all_reduce_combine_threshold_bytes" in several


def test_options_reach_the_compiler_and_change_no_result():
    mesh = make_mesh(ONE)
    double = programs.jit_on(mesh, lambda x: 2 * x, {"xla_embed_ir_in_executable": False})
    np.testing.assert_array_equal(double(jnp.arange(3)), [0, 2, 4])
    unknown = programs.jit_on(mesh, lambda x: 2 * x, {"nonsense": 1})
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        unknown(jnp.arange(3))
    assert programs.unknown_option(raised.value) == "nonsense"
    assert programs.unknown_option(ValueError("another")) is None


def test_a_program_with_options_is_counted_as_one_without():
    mesh = make_mesh(ONE)
    x = jnp.ones((4, 8))
    counts = [
        flops.count(programs.jit_on(mesh, lambda x: x @ x.T, options), x)
        for options in ({}, {"xla_embed_ir_in_executable": False})
    ]
    assert counts == [2 * 4 * 4 * 8] * 2


def test_options_are_read_from_text():
    text = " --xla_a=true, xla_b=False,xla_c=3,xla_d=0.5,xla_e=O1 ,"
    assert programs.options_of(text) == {"xla_a": True, "xla_b": False, "xla_c": 3, "xla_d": 0.5, "xla_e": "O1"}
    assert programs.options_of("") == {}


@pytest.mark.parametrize("text", ["xla_a", "xla_a=", "=1", "xla_a=1,nothing"])
def test_text_that_is_no_option_is_named(text):
    with pytest.raises(UserError, match="train.xla is .* is no option; use name=value"):
        programs.options_of(text)
