"""Collectives of known size, in programs compiled here and in one as the TPU's compiler writes it."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medjax.xla import cost, hlo
from medjax.xla.topologies import open_topology
from tpu_program import TEXT

STEPS = 5
KiB = 1024


# Both compilers write the same collectives in ways of their own.
MACHINES = ("cpu:8", "v5e:2x4", "v5p:2x2x2") if importlib.util.find_spec("libtpu") else ("cpu:8",)


@pytest.fixture(params=MACHINES)
def mesh(request):
    return Mesh(np.array(open_topology(request.param).devices).reshape(2, 4), ("data", "depth"))


def collectives(function, mesh, shape):
    """Of `function` on one device's part of an array of float32, cut over both axes."""
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=P(("data", "depth")), out_specs=P(("data", "depth")), check_vma=False
    )
    array = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(("data", "depth"))))
    return cost.collectives(hlo.parse(jax.jit(mapped).lower(array).compile().as_text()))


def test_a_sum_along_one_axis(mesh):
    (found,) = collectives(lambda x: jax.lax.psum(x, "depth"), mesh, (8 * 16, 256))
    assert (found.kind, found.bytes, found.times) == ("all-reduce", 16 * KiB, 1)
    assert found.crosses(mesh.shape) == {"depth"}


def test_a_gather_counts_what_comes_out(mesh):
    (found,) = collectives(lambda x: jax.lax.all_gather(x, "data", tiled=True), mesh, (8 * 16, 256))
    assert (found.kind, found.bytes, found.times) == ("all-gather", 2 * 16 * KiB, 1)
    assert found.crosses(mesh.shape) == {"data"}


def test_a_scattered_sum_counts_what_goes_in(mesh):
    # A small one the TPU's compiler does as an all-reduce.
    found = collectives(lambda x: jax.lax.psum_scatter(x, "depth", tiled=True), mesh, (8 * 1024, 512))
    assert [(c.kind, c.bytes, c.times) for c in found] == [("reduce-scatter", 2048 * KiB, 1)]


def test_a_halo_in_a_loop_counts_each_round(mesh):
    pairs = [(0, 1), (1, 2), (2, 3)]

    def function(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(jax.lax.ppermute(c, "depth", pairs)), None), x, None, length=STEPS)[0]

    (found,) = collectives(function, mesh, (8 * 16, 256))
    assert (found.kind, found.bytes, found.times) == ("collective-permute", 16 * KiB, STEPS)
    assert found.crosses(mesh.shape) == {"depth"}


def test_memory_and_operations_of_a_product():
    a = jax.ShapeDtypeStruct((128, 256), jnp.float32)
    b = jax.ShapeDtypeStruct((256, 64), jnp.float32)
    product = jax.jit(lambda a, b: a @ b).lower(a, b).compile()
    memory = cost.memory(product)
    assert (memory.arguments, memory.outputs) == (4 * (128 * 256 + 256 * 64), 4 * 128 * 64)
    assert memory.total == memory.arguments + memory.outputs + memory.temporaries + memory.code
    assert cost.flops(product) == pytest.approx(2 * 128 * 256 * 64, rel=0.01)


def test_an_argument_given_away_counts_once():
    a = jax.ShapeDtypeStruct((128, 256), jnp.float32)
    memory = cost.memory(jax.jit(lambda a: a + 1, donate_argnums=0).lower(a).compile())
    assert memory.aliased == 4 * 128 * 256
    assert memory.total == 4 * 128 * 256 + memory.temporaries + memory.code


def test_each_collective_of_a_tpu_program_counts_once():
    found = cost.collectives(hlo.parse(TEXT))
    assert [(c.kind, c.bytes, c.times) for c in found] == [
        ("all-gather", 2048 * 512 * 4, 1),  # written three times: it starts, goes on beside a loop, ends
        ("all-reduce", 1024 * 512 * 4, 1),
        ("collective-permute", 1024 * 512 * 2, STEPS),
        ("reduce-scatter", 3 * 3 * 32 * 32 * 4, 1),  # written as an all-reduce
    ]
    shape = {"data": 2, "fsdp": 1, "depth": 2, "height": 1}
    assert [c.crosses(shape) for c in found] == [{"data", "depth"}, {"data", "depth"}, {"depth"}, {"depth"}]
    assert found[3].op_name == "jit(f)/transpose(jvp(net))/mul"
    loop = STEPS * (10000 + 3000 + 20000)
    assert [c.overlapped_cycles for c in found] == [4000 + loop, 0, 3000, 0]


def test_the_compilers_estimate_of_a_tpu_program():
    rate = 100.0
    found = cost.estimate(hlo.parse(TEXT), rate)
    assert found.computation == 4000 + STEPS * (10000 + 3000 + 20000) + 500
    gather, total, halo, scatter = 2048 * 512 * 4, 1024 * 512 * 4, 1024 * 512 * 2, 3 * 3 * 32 * 32 * 4
    assert found.communication == round((gather + 2 * total + STEPS * halo + scatter) / rate)
    # The gather is hidden behind the loop; a halo in part.
    assert found.exposed == round((2 * total + STEPS * (halo - 3000 * rate) + scatter) / rate)
    assert found.cycles == found.computation + found.exposed
    assert found.communication_share == found.communication / (found.computation + found.communication)


def test_no_estimate_where_the_compiler_gives_none():
    text = jax.jit(jnp.sin).lower(jnp.ones(8)).compile().as_text()
    assert cost.estimate(hlo.parse(text), 1.0) is None


@pytest.mark.parametrize(
    ("attributes", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, to_apply=%add", ((0, 1), (2, 3))),
        ("source_target_pairs={{0,1},{2,3}}", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[4], x", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", ((0, 2), (1, 3))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_1'}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, x", ((0, 2), (1, 3))),
        ("replica_groups={}, x", ()),
        ("replica_groups=@somewhere", None),
    ],
)
def test_groups_in_every_notation(attributes, groups):
    assert cost.groups(attributes) == groups


@pytest.mark.parametrize("groups", [(), None])
def test_groups_that_are_not_told_cross_everything(groups):
    collective = cost.Collective("all-reduce", (), 1, groups, "", 0)
    assert collective.crosses({"data": 2, "fsdp": 1, "depth": 4, "height": 1}) == {"data", "depth"}
