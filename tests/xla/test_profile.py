import jax
import jax.numpy as jnp

from medjax.xla import hlo
from medjax.xla.profile import operations, place_of


def test_operations_of_a_trace_are_those_of_the_program(tmp_path):
    x = jnp.ones((256, 256))
    program = jax.jit(lambda x: jnp.sin(x) @ x).lower(x).compile()
    program(x)
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            program(x).block_until_ready()
        jax.block_until_ready(jnp.cos(x))  # of another program
    found = operations(tmp_path, hlo.parse(program.as_text()))
    assert [operation.seconds for operation in found] == sorted((o.seconds for o in found), reverse=True)
    product = next(operation for operation in found if "dot_general" in operation.place)
    assert (product.times, product.opcode) == (3, "dot") or product.opcode == "fusion"
    assert not any("cos" in operation.place for operation in found)


def test_without_a_trace_there_are_none(tmp_path):
    assert operations(tmp_path, hlo.Program({"main": {}}, "main")) == []


def test_places_are_layers_with_the_gradient_marked():
    forward = 'metadata={op_name="jit(traced)/jvp(UNet)/down_0_block_1/conv_0/conv_general_dilated" stack=3}'
    assert place_of(forward) == "UNet/down_0_block_1/conv_0/conv_general_dilated"
    backward = 'metadata={op_name="jit(traced)/transpose(jvp(UNet))/head_conv/add" stack=3}'
    assert place_of(backward) == "backward UNet/head_conv/add"
    nested = 'metadata={op_name="jit(traced)/transpose(jvp(checkpoint(vmap(UNet))))/head_conv/add"}'
    assert place_of(nested) == "backward UNet/head_conv/add"
    assert place_of('backend_config={"a":1}') == ""
