import jax
import jax.numpy as jnp
import pytest

from medjax.xla import hlo
from tpu_program import TEXT


def unknown_loops(program: hlo.Program) -> int:
    """How many loops there are whose length the text does not tell."""
    return sum(
        execution.instruction.opcode == "while"
        and hlo.trip_count(program, program.computations[execution.computation], execution.instruction) is None
        for execution in hlo.executions(program)
    )


def test_an_instruction_is_taken_apart():
    line = (
        "  ROOT %permute = (bf16[2,1,16]{2,1,0:T(8,128)(2,1)S(1)}, /*index=1*/pred[]{:T(128)}) permute-start(%a.1, %b), "
        'channel_id=7, calls=%inner.2, metadata={op_name="jit(f)/conv (1)"}'
    )
    found = hlo.parse_instruction(line)
    assert (found.name, found.opcode, found.operands, found.is_root) == ("permute", "permute-start", ("a.1", "b"), True)
    assert found.result == (hlo.Array("bf16", (2, 1, 16)), hlo.Array("pred", ()))
    assert [array.bytes for array in found.result] == [64, 1]
    assert found.called("calls") == ("inner.2",)
    assert hlo.parse_instruction("}") is None


def test_branches_are_all_called():
    line = "  %c = f32[] conditional(%i, %x, %x), branch_computations={%one, %two}"
    assert hlo.parse_instruction(line).called("branch_computations") == ("one", "two")


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule nothing")


def test_a_tpu_program_runs_its_loop_as_often_as_it_says():
    program = hlo.parse(TEXT)
    times = {execution.instruction.name: execution.times for execution in hlo.executions(program)}
    assert (times["psum.7"], times["convert.6"], times["lt.3"]) == (1, 5, 5)
    assert "all-gather.6" not in times  # inside a fusion, which is one instruction
    assert unknown_loops(program) == 0


@pytest.mark.parametrize(
    ("changed", "to", "times"),
    [
        ("%copy.11 = s32[]{:T(128)} copy(%zero)", "%copy.11 = s32[]{:T(128)} constant(2)", 3),
        (
            "ROOT %lt.3 = pred[]{:T(512)} compare(%i.3, %bound), direction=LT",
            "ROOT %f = pred[] fusion(%bound, %i.3), kind=kLoop, calls=%less",
            5,
        ),
        ("direction=LT", "direction=NE", None),
        ("%bound = s32[]{:T(128)} constant(5)", "%bound = s32[] custom-call()", None),
        (
            "condition=%condition, body=%body",
            'condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"9"}}',
            9,
        ),
    ],
)
def test_the_length_of_a_loop(changed, to, times):
    less = (
        "%less (q.0: s32[], q.1: s32[]) -> pred[] {\n  %q.0 = s32[] parameter(0)\n  %q.1 = s32[] parameter(1)\n"
        "  ROOT %lt = pred[] compare(%q.1, %q.0), direction=LT\n}\n\n"
    )
    assert changed in TEXT
    program = hlo.parse(TEXT.replace(changed, to).replace("ENTRY", less + "ENTRY"))
    entry = program.computations["main"]
    assert hlo.trip_count(program, entry, entry["while.10"]) == times
    assert unknown_loops(program) == (times is None)


def test_loops_in_loops_as_compiled_here():
    def inner(x, _):
        return jnp.sin(x @ x), None

    def outer(x, _):
        return jax.lax.scan(inner, x, None, length=3)[0], None

    compiled = jax.jit(lambda x: jax.lax.scan(outer, x, None, length=4)[0]).lower(jnp.ones((8, 8))).compile()
    program = hlo.parse(compiled.as_text())
    times = [execution.times for execution in hlo.executions(program) if "sin" in execution.instruction.attributes]
    assert set(times) == {12}
