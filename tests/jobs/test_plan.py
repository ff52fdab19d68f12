import json
import math
import sys

import jax
import pytest

from medjax.errors import UserError
from medjax.jobs import plan
from medjax.jobs.plan import rows_of
from medjax.planning import search
from medjax.planning.forecast import Forecast
from medjax.planning.search import alternatives, largest_that_fits
from medjax.runtime.mesh import AXES
from medjax.xla.topologies import Topology
from small_config import small_config
from small_runs import ROOT, SMALL, ends, launch, result, start

CONFIG = f"--config={ROOT}/configs/folder.py:tiny"
ARGV = ["launch.py", "--mode=plan", CONFIG, *(argument for argument in SMALL if "mesh" not in argument)]


def machine(memory=2**30):
    return Topology("cpu:8", "cpu", jax.devices()[:8], memory)


def invented(bytes_a_volume, state=0):
    """A forecast that compiles nothing: a device holds its volumes, a block's activations with remat, and the state."""

    def forecast(config, machine):
        mesh = dict(plan.make_mesh(config.mesh, machine.devices).shape)
        batch_size, ways = config.data.batch_size, mesh["data"] * mesh["fsdp"]
        held = state / mesh["fsdp"] + bytes_a_volume * batch_size / math.prod(mesh.values())
        held *= 0.5 if config.train.remat == "blocks" else 1
        fits = batch_size % ways == 0 and held <= machine.memory
        return Forecast("train", mesh, batch_size, config.train.remat, fits, bytes_per_device=int(held))

    return forecast


def test_a_plan_in_a_process_of_its_own(tmp_path):
    argv = [*ARGV, "--topology=cpu:4", "--meshes=data=2,depth=2,remat=blocks", f"--workdir={tmp_path}/run"]
    ((status, out, err),) = ends([start(argv)])
    assert status == 0, err
    assert "Traceback" not in err
    found = result(out)
    assert (found["topology"], found["devices"], found["fits"], found["tried"]) == ("cpu:4", 4, True, [])
    (row,) = found["rows"]
    assert (row["mesh"]["depth"], row["batch_size"], row["remat"], row["largest_batch"]) == (2, 2, "blocks", None)
    assert found["bytes_per_device"] == row["train"]["bytes_per_device"] < found["memory_per_device"]
    assert found["communicated_bytes_per_step"] == row["train"]["communicated_bytes"] > 0
    assert found["collectives"] == row["train"]["collectives"]
    assert {"cycles", "communication_share", "seconds_estimated", "largest_batch"} <= found.keys()
    assert json.loads((tmp_path / "run/plan.json").read_text()) | {"plan": found["plan"]} == found
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plan.json"]


def test_a_table_has_two_lines_for_each_mesh(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plan, "open_topology", lambda name, compiler: machine())
    monkeypatch.setattr(plan, "forecast_train", invented(bytes_a_volume=2**28))
    monkeypatch.setattr(plan, "forecast_denoise", invented(bytes_a_volume=1))
    found = plan.run(small_config(), tmp_path, "cpu:8", "data=2,depth=2,batch=4;data=2,remat=blocks;data=1,batch=9")
    assert [row["fits"] for row in found["rows"]] == [True, True, False]
    assert found["tried"] == []
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert [line[1:7] for line in lines[1::2]] == [
        ["data=2,depth=2", "4", "none", "yes", "0.25", "1"],
        ["data=2", "2", "blocks", "yes", "0.125", "1"],
        ["data=1", "9", "none", "no", "2.25", "1"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--topology is missing", "--topology=v5e:4x4"]),
        (["--topology=v9:2"], ["--topology=v9:2", "v5e"]),
        (["--topology=cpu:8", "--meshes=data=9"], ["mesh.data=9", "9 devices", "found 8"]),
        (["--topology=cpu:8", "--meshes=data=2;width=2"], ["--meshes", "width=2", "height"]),
        (["--topology=cpu:8", "--meshes=data=2,remat=most"], ["train.remat is 'most'"]),
        (["--topology=cpu:8", "--meshes=;"], ["--meshes", "names no mesh"]),
        (["--topology=cpu:8", "--config.mesh.depth=16"], ["mesh.depth=16", "found 8"]),
        (["--topology=cpu:8", "--config.data.size=(15,16,16)"], ["data.size", "D = 15"]),
    ],
)
def test_what_cannot_be_planned_is_named(arguments, words, tmp_path, capsys):
    given = {argument.partition("=")[0] for argument in arguments}
    argv = [argument for argument in ARGV if argument.partition("=")[0] not in given]
    status, out, lines = launch([*argv, *arguments, f"--workdir={tmp_path}/run"], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    for word in words:
        assert word in lines[0]
    assert not (tmp_path / "run").exists()


def test_rows_have_their_own_batch_and_remat():
    config = small_config(**{"mesh.fsdp": 4})
    rows = rows_of(config, " data=2 , depth=4 ,batch=6; fsdp=8,remat=above:4 ;", machine())
    assert [({axis: row.mesh[axis] for axis in AXES}, row.data.batch_size, row.train.remat) for row in rows] == [
        ({"data": 2, "fsdp": 1, "depth": 4, "height": 1}, 6, "none"),
        ({"data": 1, "fsdp": 8, "depth": 1, "height": 1}, 2, "above:4"),
    ]
    assert (config.mesh.fsdp, config.data.batch_size) == (4, 2)
    with pytest.raises(UserError, match="'batch=many' is not a setting"):
        rows_of(config, "data=2,batch=many", machine())


@pytest.mark.parametrize("largest", [0, 1, 2, 3, 4, 7, 20, 21, 99])
@pytest.mark.parametrize("bend", [-0.4, 0.0, 0.4])
def test_the_largest_batch_is_found_whether_memory_is_linear_or_not(largest, bend):
    memory, asked = 1000.0, []

    def bytes_of(count):
        return memory * (0.1 + 0.9 * count / (largest + 0.5)) * (1 + bend * (1 - count / (largest + 0.5)))

    def forecast(count):
        asked.append(count)
        held = bytes_of(count)
        return Forecast("train", {}, count, "none", count <= largest, bytes_per_device=int(held))

    assert largest_that_fits(forecast, int(memory)) == largest
    assert {largest, largest + 1} <= set(asked) | {0}
    assert len(set(asked)) <= (4 if bend == 0.0 else 14)


def test_the_largest_batch_is_a_multiple_of_what_the_mesh_divides(monkeypatch):
    monkeypatch.setattr(plan, "forecast_train", invented(bytes_a_volume=100, state=1000))
    monkeypatch.setattr(plan, "forecast_denoise", invented(bytes_a_volume=1))
    config = small_config(**{"data.batch_size": 0, "mesh.data": 2, "mesh.depth": 2, "train.accumulate": 3})
    row = plan.planned(config, machine(memory=1900))
    assert (row["largest_batch"], row["batch_size"], row["fits"]) == (36, 36, True)
    row = plan.planned(config, machine(memory=1100))
    assert (row["largest_batch"], row["batch_size"], row["fits"]) == (0, 6, False)


def test_a_batch_of_samples_that_is_to_be_found_elsewhere_is_refused(monkeypatch):
    monkeypatch.setattr(plan, "forecast_train", invented(bytes_a_volume=100, state=1000))
    with pytest.raises(UserError, match="sample.batch_size is 0"):
        plan.planned(small_config(**{"sample.batch_size": 0}), machine(memory=1900))


def settings_of(config):
    return plan.describe_mesh(config.mesh), config.data.batch_size, config.train.remat


def test_what_is_tried_where_it_does_not_fit():
    config = small_config(**{"mesh.data": 2, "data.batch_size": 2})
    assert [settings_of(tried) for tried in alternatives(config, machine())] == [
        ("data=2", 2, "blocks"),
        ("data=2,depth=4", 2, "blocks"),  # all eight devices
        ("fsdp=2,depth=4", 2, "blocks"),
    ]
    config = small_config(**{"mesh.data": 8, "data.batch_size": 32, "train.remat": "blocks"})
    assert [settings_of(tried) for tried in alternatives(config, machine())] == [
        ("fsdp=8", 32, "blocks"),
    ]


def test_a_batch_that_the_machine_cannot_divide_has_its_volumes_cut():
    config = small_config(**{"mesh.data": -1, "data.batch_size": 1, "train.remat": "blocks", "data.size": (16, 16, 16)})
    assert [settings_of(tried) for tried in alternatives(config, machine())] == [("depth=4,height=2", 1, "blocks")]


def tried_by(config, memory, bytes_a_volume, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "open_topology", lambda name, compiler: machine(memory))
    for module in (plan, search):
        monkeypatch.setattr(module, "forecast_train", invented(bytes_a_volume))
    monkeypatch.setattr(plan, "forecast_denoise", invented(bytes_a_volume=1))
    found = plan.run(config, tmp_path, topology="cpu:8")
    assert not found["fits"]
    return [(plan.describe_mesh(tried["mesh"]), tried["batch_size"], tried["fits"]) for tried in found["tried"]]


def test_trying_stops_at_what_fits(monkeypatch, tmp_path, capsys):
    config = small_config(**{"mesh.data": 2, "data.batch_size": 2})
    found = tried_by(config, 300, 1600, tmp_path, monkeypatch)
    assert found == [("data=2", 2, False), ("data=2,depth=4", 2, True)]
    assert "data=2,depth=4" in capsys.readouterr().err


def test_smaller_batches_come_last_and_without_detours(monkeypatch, tmp_path):
    config = small_config(**{"mesh.data": 4, "mesh.depth": 2, "data.batch_size": 400, "train.remat": "blocks"})
    # A device holds 400 / 8 / 2 = 25 volumes, and has memory for 3.
    found = tried_by(config, 300, 100, tmp_path, monkeypatch)
    assert found == [("fsdp=4,depth=2", 400, False), ("fsdp=4,depth=2", 48, True)]
    # Nothing fits: it ends with one volume for each.
    found = tried_by(config, 1, 100, tmp_path, monkeypatch)
    assert found[-1] == ("fsdp=4,depth=2", 4, False)


def test_no_tensorflow_is_needed(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    assert plan.run(small_config(**{"mesh.data": 2, "mesh.depth": 2}), tmp_path, topology="cpu:4")["fits"]
