"""`--mode=plan`: what a machine would make of a configuration, before it is paid for.

Compiles the training and the denoising step for a machine that need not be there and reports memory, operations,
communication and the compiler's estimate of the time. `data.batch_size` 0 asks for the largest batch that fits. Where the
training step does not fit, what would is looked for: recomputed activations, another mesh, a smaller batch.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from medjax.builders.assemble import Needs, in_force
from medjax.builders.pretrained import task_of
from medjax.console import say
from medjax.errors import UserError
from medjax.layers.lowering import machine_of
from medjax.planning.forecast import Forecast, describe_mesh, forecast_denoise, forecast_train
from medjax.planning.search import ONE_DEVICE, changed, largest_that_fits, until_one_fits
from medjax.runtime.mesh import AXES, batch_ways, check_volume_size, make_mesh
from medjax.runtime.placement import islands_of
from medjax.runtime.workdir import write_json
from medjax.tasks import task_class
from medjax.xla.gpus import SHARE
from medjax.xla.roofline import Roofline
from medjax.xla.topologies import Topology, open_topology
from medjax.xla.tpus import GiB


def run(
    config: ConfigDict,
    workdir: pathlib.Path,
    topology: str | None = None,
    meshes: str | None = None,
    compiler: str | None = None,
) -> dict:
    """Plans the configuration's mesh, or a table of meshes, and writes WORKDIR/plan.json.

    Args:
      config: as for training; `data.root` is not needed, nothing is read.
      workdir: need not be of a run; only plan.json in it is written.
      topology: the machine, as xla/topologies.open_topology takes it.
      meshes: "data=64;data=16,depth=4", a row of the table each; an axis left out is 1. `batch=64` in a row is its
        `data.batch_size`, `remat=blocks` its `train.remat`.
      compiler: folder of the machine's compiler, if it is not where xla/compilers.py looks.

    Returns:
      The first row's numbers, all `rows`, and what was `tried` where a single mesh did not fit.

    Raises:
      UserError: the machine or a mesh cannot be, or the configuration cannot work on any mesh.
    """
    if topology is None:
        raise UserError("--topology is missing: name the machine, as --topology=v5e:4x4, h100:8 or cpu:8")
    machine = open_topology(topology, pathlib.Path(compiler) if compiler else None)
    chip = config.train.machine or machine_of(machine.devices[0])
    config = in_force(config, workdir, {"train.machine": chip}, Needs(training=True, own=False))
    task = task_of(config)
    check_volume_size(tuple(config.data.size), make_mesh(ONE_DEVICE, machine.devices), task.size_multiple)
    configs = rows_of(config, meshes, machine)
    workdir.mkdir(parents=True, exist_ok=True)  # or fail here, not after an hour of compiling
    rows = [planned(row, machine) for row in configs]
    first, tried = rows[0]["train"], []
    if meshes is None and not first["fits"]:
        tried = [vars(forecast) for forecast in until_one_fits(config, Forecast(**first), machine)]
    result = {
        "topology": machine.name,
        "devices": len(machine.devices),
        "memory_per_device": machine.memory,
        "fits": rows[0]["fits"],
        "bytes_per_device": first["bytes_per_device"],
        "collectives": first["collectives"],
        "communicated_bytes_per_step": first["communicated_bytes"],
        "network_bytes_per_step": first["network_bytes"],
        "roofline": first["roofline"],
        "cycles": first["cycles"],
        "communication_share": first["communication_share"],
        "seconds_estimated": first["seconds_estimated"],
        "largest_batch": rows[0]["largest_batch"],
        "tried": tried,
        "rows": rows,
    }
    say(table([row[step] for row in rows for step in ("train", "denoise") if row[step]] + tried, machine))
    write_json(workdir / "plan.json", result)
    return result | {"plan": str(workdir / "plan.json")}


def rows_of(config: ConfigDict, meshes: str | None, machine: Topology) -> list[ConfigDict]:
    """A configuration for each row: `meshes` as `run` takes it, or the one of `config` alone.

    Raises:
      UserError: a row cannot be read, or asks for more devices than there are.
    """
    if meshes is None:
        make_mesh(config.mesh, machine.devices)
        return [config]
    rows = []
    for text in filter(None, (part.strip() for part in meshes.split(";"))):
        row = changed(config, mesh=ONE_DEVICE)
        for setting in text.split(","):
            name, _, value = (part.strip() for part in setting.partition("="))
            if name == "remat":
                row.train.remat = value
            elif name == "batch" and value.isdecimal():
                row.data.batch_size = int(value)
            elif name in AXES and re.fullmatch(r"-?\d+", value):
                row.mesh[name] = int(value)
            else:
                raise UserError(
                    f"--meshes: {setting!r} is not a setting: use {', '.join(AXES)} or batch=N, or remat=..."
                )
        task_of(row)  # an unknown remat
        make_mesh(row.mesh, machine.devices)
        rows.append(row)
    if not rows:
        raise UserError(f"--meshes={meshes!r} names no mesh: give some, as data=64;data=16,depth=4")
    return rows


def planned(config: ConfigDict, machine: Topology) -> dict[str, Any]:
    """One row: both steps, at the batch that the configuration asks for or at the largest that fits."""
    largest = None
    if config.data.batch_size == 0:
        step = batch_ways(make_mesh(config.mesh, machine.devices)) * config.train.accumulate
        forecast = functools.cache(lambda count: forecast_train(changed(config, batch_size=step * count), machine))
        count = largest_that_fits(forecast, machine.memory)
        largest, train = step * count, forecast(max(1, count))
    else:
        train = forecast_train(config, machine)
    if config.sample.batch_size < 1:
        raise UserError(f"sample.batch_size is {config.sample.batch_size}: a plan needs a number, give 1 or more")
    denoise = forecast_denoise(config, machine) if task_class(config).generates else None
    return {
        "mesh": train.mesh,
        "batch_size": train.batch_size,
        "remat": train.remat,
        "fits": train.fits and (denoise is None or denoise.fits),
        "largest_batch": largest,
        "train": vars(train),
        "denoise": denoise and vars(denoise),
    }


def table(forecasts: list[dict[str, Any]], machine: Topology) -> str:
    """Forecasts as aligned text."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "step": lambda row: row["step"],
        "mesh": lambda row: describe_mesh(row["mesh"]),
        "batch": lambda row: str(row["batch_size"]),
        "remat": lambda row: row["remat"],
        "fits": lambda row: "yes" if row["fits"] else "no",
        "GiB": lambda row: number(row["bytes_per_device"], GiB),
        "of": lambda row: number(machine.memory, GiB),
        "sent MB": lambda row: number(row["communicated_bytes"], 1e6),
    }
    if len(islands_of(machine.devices)) > 1:
        columns["far MB"] = lambda row: number(row["network_bytes"], 1e6)
    if machine.gpu:
        for part in dataclasses.fields(Roofline):
            columns[f"{part.name} ms"] = lambda row, name=part.name: number(
                row["roofline"] and row["roofline"][name], 1e-3
            )
        columns["binds"] = lambda row: row["roofline"]["binds"] if row["roofline"] else "-"
    else:
        columns["Mcycles"] = lambda row: number(row["cycles"], 1e6)
        columns["comm"] = lambda row: "-" if row["communication_share"] is None else f"{row['communication_share']:.1%}"
        columns["s/step"] = lambda row: number(row["seconds_estimated"])
    lines = [tuple(columns), *(tuple(cell(row) for cell in columns.values()) for row in forecasts)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
    reasons = {
        f"{row['step']}, {describe_mesh(row['mesh'])}, batch {row['batch_size']}, remat {row['remat']}: {row['reason']}"
        for row in forecasts
        if row["reason"]
    }
    return "\n".join([text, *sorted(reasons), *notes(machine)])


def notes(machine: Topology) -> list[str]:
    """Says how the numbers of a table were got."""
    far = (
        ["far MB: of what is sent, what reaches over several slices or nodes"]
        if len(islands_of(machine.devices)) > 1
        else []
    )
    if machine.gpu:
        gpu = machine.gpu
        return [
            f"GiB is a lower bound, without cuDNN's workspace; of: {SHARE:.0%} of the memory",
            "ms are a roofline, no measurement: what each part alone would take at its full rate: "
            f"{gpu.matrix / 1e12:.0f} TFLOP/s in bfloat16 (half in float32), {gpu.bandwidth / 1e12:.2f} TB/s of memory, "
            f"{gpu.nvlink / 1e9:.0f} GB/s of NVLink and, assumed, {gpu.network / 1e9:.0f} GB/s a GPU between nodes",
            *far,
        ]
    note = "cycles, comm (their share for communication, were none hidden) and s/step are the compiler's estimate"
    return [*([note] if machine.chip else []), *far]


def number(value: float | None, unit: float = 1.0) -> str:
    """Three figures, or a dash."""
    return "-" if value is None else f"{value / unit:.3g}"
