import jax
import numpy as np
import pytest

from medjax.jobs import plan
from medjax.planning import forecast
from medjax.planning.forecast import (
    OutOfMemory,
    compile_for,
    forecast_denoise,
    forecast_train,
    memory_numbers,
    purpose_of,
)
from medjax.tasks import make_task
from medjax.xla.cost import Collective
from medjax.xla.hlo import Array
from medjax.xla.topologies import Topology
from small_config import small_config

GROUPS = {"data": ((0, 2), (1, 3)), "depth": ((0, 1), (2, 3))}
DATA_AND_DEPTH = {"mesh.data": 2, "mesh.depth": 2}  # the same step each time, so that it is compiled once
MESH = {"data": 2, "fsdp": 1, "depth": 2, "height": 1}


@pytest.fixture(scope="module")
def machine():
    return Topology("cpu:4", "cpu", jax.devices()[:4], memory=2**30)


def test_a_training_step_over_data_and_depth(machine):
    config = small_config(**DATA_AND_DEPTH)
    found = forecast_train(config, machine)
    assert (found.fits, found.mesh, found.batch_size) == (True, MESH, 2)
    blank = {"image": jax.ShapeDtypeStruct((1, 16, 16, 16, 1), np.float32)}
    params, _ = jax.eval_shape(make_task(config).init, jax.random.key(0), blank)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found.memory["parameters"] == 2 * 4 * count  # with their average
    assert 2 * 4 * count <= found.memory["optimizer"] <= 2 * 4 * count + 16  # and two counters
    assert found.memory["batch"] == 4 * 16**3 // 2
    held = sum(found.memory[name] for name in ("parameters", "optimizer", "batch"))
    assert held <= found.memory["arguments"] <= held + 16
    sums, halos = found.collectives["all-reduce"], found.collectives["collective-permute"]
    assert 4 * count <= sums["gradients"] <= 4 * count + 4096  # and the losses
    assert halos["activations"] == halos["bytes"] > 0
    assert found.communicated_bytes == sum(kind["bytes"] for kind in found.collectives.values())
    assert found.cycles is None


def test_a_denoising_step_takes_as_many_volumes_as_the_mesh_divides(machine):
    config = small_config(**{"mesh.data": 4, "sample.batch_size": 2})
    found = forecast_denoise(config, machine)
    assert (found.fits, found.batch_size) == (True, 4)
    assert not found.collectives  # volumes are drawn without communication
    assert found.memory["optimizer"] == 0


def test_operations_of_every_microbatch_count(machine):
    once = forecast_train(small_config(**DATA_AND_DEPTH), machine)
    twice = forecast_train(small_config(**DATA_AND_DEPTH, **{"data.batch_size": 4, "train.accumulate": 2}), machine)
    assert twice.flops == pytest.approx(2 * once.flops, rel=0.1)


def test_less_memory_than_needed_does_not_fit(machine):
    found = forecast_train(small_config(**DATA_AND_DEPTH), Topology("cpu:4", "cpu", machine.devices, memory=2**16))
    assert not found.fits
    assert found.bytes_per_device > 2**16
    assert found.reason.endswith("of 0.00 GiB")


def test_a_mesh_that_cannot_divide_the_batch_does_not_fit(machine):
    found = forecast_train(small_config(**{"mesh.data": 4}), machine)
    assert (found.fits, found.bytes_per_device) == (False, None)
    assert "data.batch_size is 2: the mesh cannot divide it" in found.reason


@pytest.mark.parametrize("text", ["another compiler's", "ENTRY %main (a: f32[]) -> f32[] {\n  ROOT %b = f32[\n}", None])
def test_a_text_that_cannot_be_read_leaves_memory_known(text, machine, monkeypatch, capsys):
    monkeypatch.setattr(jax.stages.Compiled, "as_text", lambda self: text)
    monkeypatch.setattr(jax.stages.Compiled, "cost_analysis", lambda self: None)
    found = forecast_train(small_config(**DATA_AND_DEPTH), machine)
    assert found.fits and found.bytes_per_device > 0
    assert (found.flops, found.collectives, found.communicated_bytes, found.cycles) == (None,) * 4
    assert "cannot be read" in capsys.readouterr().err
    assert "yes" in plan.table([vars(found)], machine)


REFUSAL = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (299.64G) exceeds available HBM (15.75G). HLO module: jit_step.\nSee the documentation."
)


class Refused:
    def lower(self):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(REFUSAL)


def test_what_the_compiler_refuses_is_out_of_memory(machine):
    with pytest.raises(OutOfMemory) as refusal:
        compile_for(Refused(), machine)
    assert refusal.value.needed == round(299.64 * 2**30)
    assert refusal.value.available == round(15.75 * 2**30)


def test_a_refusal_is_a_forecast(machine, monkeypatch):
    monkeypatch.setattr(forecast, "_training", lambda *_: forecast.Step(Refused(), (), {}, {}, 1))
    found = forecast_train(small_config(), machine)
    assert (found.fits, found.reason) == (False, "needs 299.64 of 15.75 GiB")


def test_other_ways_of_saying_so():
    older = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.5G of 15.75G hbm. Exceeded hbm capacity by 4.75G."
    )
    assert memory_numbers(older) == (round(20.5 * 2**30), round(15.75 * 2**30))
    assert memory_numbers("RESOURCE_EXHAUSTED: of something else") is None


@pytest.mark.parametrize(
    ("kind", "axis", "size", "op_name", "purpose"),
    [
        ("all-reduce", "data", 7, "", "gradients"),
        ("all-reduce", "depth", 64, "jit(step)/transpose(jvp(UNet))/conv", "gradients"),
        ("all-reduce", "depth", 64, "jit(step)/jvp(UNet)/norm", "activations"),
        ("all-reduce", "depth", 7, "jit(step)/transpose(jvp(UNet))/norm", "activations"),
        ("reduce-scatter", "data", 64, "", "gradients"),
        ("all-gather", "data", 64, "", "parameters"),
        ("all-gather", "data", 7, "", "activations"),
        ("all-gather", "depth", 64, "", "activations"),
        ("collective-permute", "depth", 64, "", "activations"),
    ],
)
def test_what_is_sent_and_why(kind, axis, size, op_name, purpose):
    collective = Collective(kind, (Array("f32", (size,)),), 1, GROUPS[axis], op_name, 0)
    assert purpose_of(collective, size, MESH, frozenset({64})) == purpose
