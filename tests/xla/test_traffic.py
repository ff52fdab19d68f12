"""What a compiled program moves, by kind: of a text as XLA's compiler for GPUs prints it, and of one compiled here."""

import jax
import jax.numpy as jnp

from medjax.xla import hlo
from medjax.xla.traffic import Traffic, traffic

TEXT = """\
HloModule jit_f, is_scheduled=true

%fused_transpose (p.0: bf16[64,3,3,3,64]) -> bf16[64,64,3,3,3] {
  %p.0 = bf16[64,3,3,3,64]{4,3,2,1,0} parameter(0)
  ROOT %transpose.1 = bf16[64,64,3,3,3]{4,3,2,1,0} transpose(%p.0), dimensions={0,4,1,2,3}
}

%fused_norm (p.1: bf16[2,1000]) -> f32[2] {
  %p.1 = bf16[2,1000]{1,0} parameter(0)
  %convert.1 = f32[2,1000]{1,0} convert(%p.1)
  %zero = f32[] constant(0)
  ROOT %reduce.1 = f32[2]{0} reduce(%convert.1, %zero), dimensions={1}, to_apply=%add
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: bf16[2,32,32,32,64], k: bf16[64,3,3,3,64], y: bf16[2,1000]) -> f32[2] {
  %x = bf16[2,32,32,32,64]{4,3,2,1,0} parameter(0)
  %k = bf16[64,3,3,3,64]{4,3,2,1,0} parameter(1)
  %y = bf16[2,1000]{1,0} parameter(2)
  %kernel = bf16[64,64,3,3,3]{4,3,2,1,0} fusion(%k), kind=kInput, calls=%fused_transpose
  %conv = (bf16[2,32,32,32,64]{4,3,2,1,0}, u8[0]{0}) custom-call(%x, %kernel), custom_call_target="__cudnn$convForward"
  %result = bf16[2,32,32,32,64]{4,3,2,1,0} get-tuple-element(%conv), index=0
  %again = bf16[2,32,32,32,64]{4,3,2,1,0} copy(%result)
  %mean = f32[2]{0} fusion(%y), kind=kInput, calls=%fused_norm
  ROOT %all = f32[2]{0} all-reduce(%mean), replica_groups={}, to_apply=%add
}
"""


def test_every_kind_is_told_from_the_others():
    kernel, volume = 2 * 64 * 64 * 27, 2 * 2 * 32**3 * 64
    assert traffic(hlo.parse(TEXT)) == {
        "convolution": Traffic(1, 2 * volume + kernel),
        "copy": Traffic(1, 2 * volume),
        "transpose": Traffic(1, 2 * kernel),
        "reduction": Traffic(1, 4000 + 8),
        "communication": Traffic(1, 16),
    }


def test_what_a_loop_does_counts_as_often_as_it_goes_round():
    def run(x):
        return jax.lax.fori_loop(0, 7, lambda i, x: jnp.sin(x) @ x, x)

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    found = traffic(hlo.parse(jax.jit(run).lower(x).compile().as_text()))
    assert found["matrix product"].count == 7
    assert found["matrix product"].bytes == 7 * 3 * 4 * 64**2
