"""A function on eight virtual devices, and what these send each other for it."""

import re

import jax

from medjax.layers.spatial import volume_spec
from medjax.runtime.mesh import make_mesh, on_mesh

MESH = {"data": 1, "fsdp": 2, "depth": 2, "height": 2}


def collectives(text: str) -> dict[str, int]:
    found = re.findall(r"(all-gather|all-to-all|all-reduce|collective-permute)(?:-start)?\(", text)
    return {name: found.count(name) for name in found}


def on_the_mesh(function, *arguments, sizes=MESH):
    """The result on the mesh, its input cut as a batch is, and the collectives of the compiled program."""
    mesh = make_mesh({"data": 1, "fsdp": 1, "depth": 1, "height": 1} | sizes)
    x, *rest = arguments
    x = jax.device_put(x, jax.sharding.NamedSharding(mesh, volume_spec(x.shape, mesh.shape)))
    jitted = jax.jit(on_mesh(function, mesh))
    return jitted(x, *rest), collectives(jitted.lower(x, *rest).compile().as_text())
