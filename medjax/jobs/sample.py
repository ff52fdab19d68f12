"""`--mode=sample`: draws volumes from a trained model and writes them as NIfTI, with a montage to look at."""

import contextlib
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines.batches import first_volumes
from data_pipelines.datasets import found_identity
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.transforms import from_network
from medjax.builders.assemble import Needs, Run, assemble
from medjax.builders.steps import volume_shapes
from medjax.errors import UserError
from medjax.generation.files import Extremes, Writer, as_int16, sample_path
from medjax.generation.sample_sets import open_folder, samples_in, settings, tell_failures
from medjax.generation.sampler import CompiledSampler
from medjax.generation.starts import open_start
from medjax.generation.told import told_of
from medjax.pictures import montage
from medjax.planning.memory_fit import decisions
from medjax.runtime import distributed, multihost
from medjax.runtime.checkpoints import Checkpoints
from medjax.runtime.mesh import take_rows
from medjax.runtime.workdir import (
    as_json,
    check_same_model,
    first_difference,
    read_config,
    read_json,
    sole_use,
    written_aside,
)
from medjax.task import Batch

DTYPES = ("float32", "int16")
PICTURES_A_ROW, MOST_PICTURES = 4, 16


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes `sample.count` volumes to WORKDIR/samples; needs no data and no TensorFlow.

    With `sample.start` they are variations of one volume, in WORKDIR/variations, or lie between two, in WORKDIR/interpolation.

    Volume i depends on the checkpoint, `sample.seed` and i alone. Volumes that an interrupted run of the same weights and
    settings left are kept and not drawn again; samples of others are moved aside to samples.1, samples.2, ... Constant
    volumes and those with NaN are written and told, for an untrained or broken model draws such.

    Raises:
      UserError: no checkpoint, one of another model, settings that cannot work, or another job writes the same folder.
    """
    with distributed.one_voice(), distributed.explain_lost_process(), contextlib.ExitStack() as held:
        result = _run(config, workdir, held)
        distributed.leave()
        return result


def _run(config: ConfigDict, workdir: pathlib.Path, held: contextlib.ExitStack) -> dict[str, Any]:
    count = config.sample.count
    if count < 1:
        raise UserError(f"sample.count is {count}: use 1 or more")
    if config.sample.dtype not in DTYPES:
        raise UserError(f"sample.dtype is {config.sample.dtype!r}: use 'float32' or 'int16'")
    if config.sample.checkpoint not in ("last", "best"):
        raise UserError(f"sample.checkpoint is {config.sample.checkpoint!r}: use 'last' or 'best'")
    trained = read_config(workdir / "config.json", config.to_dict())
    check_same_model(workdir, trained, config.to_dict())
    for key in ("name", "size", "axes", "orientation"):
        difference = first_difference(trained["data"][key], as_json(config.data[key]), f"data.{key}")
        if difference:
            raise UserError(f"{workdir} belongs to a model of other data: {difference}; sample with the same")
    data = read_json(workdir / "data.json")
    if not {"axes", "affine", "intensity_range"} <= data.keys():
        raise UserError(f"{workdir / 'data.json'} is not whole: train again for a step, or choose another --workdir")
    needs = Needs(sampling=True)
    run = assemble(config, workdir, needs, decisions(config, workdir, needs))
    config, task, mesh, frozen = run.config, run.task, run.mesh, run.pretrained
    batch_size = config.sample.batch_size

    shapes = jax.eval_shape(task.init, jax.random.key(0), volume_shapes(tuple(config.data.size), 1))
    weights = "ema" if config.sample.ema else "params"  # the other is not read: it would take as much memory again
    with Checkpoints(workdir, config.train.keep) as checkpoints:
        best = config.sample.checkpoint == "best"
        step, model = checkpoints.restore_model(shapes, mesh, best=best, weights=(weights,))

    start = multihost.on_all_processes(lambda: open_start(config.sample, trained, data))
    folder = workdir / (start.folder if start else "samples")
    if start:
        data = data | {"affine": start.affine}
    params = model[weights]
    named = settings(config, step, params, frozen, data) | (start.settings() if start else {})
    found: dict[int, Extremes] = {}  # of process 0

    def open_set() -> None:
        held.enter_context(sole_use(workdir, folder.name))
        open_folder(folder, named)
        found.update(samples_in(folder, range(count)))

    multihost.on_first_process(open_set)
    there = multihost.broadcast_from_first(np.asarray([i in found for i in range(count)]))
    missing = [int(i) for i in np.flatnonzero(~there)]

    def drawing_of(indices: np.ndarray, begins: Batch | None) -> CompiledSampler:
        return CompiledSampler(
            task, mesh, params, model["variables"], config.sample.seed, indices, told, begins, frozen.arrays
        )

    told = told_of(config.sample, mesh, batch_size)
    drawing = None
    seconds = 0.0
    batches = -(-len(missing) // batch_size)
    with (
        Writer() as writer,
        tqdm(total=batches * task.steps, unit="step", desc="sampling", file=sys.stderr) as progress,
    ):
        for n in range(batches):
            wanted = missing[n * batch_size : (n + 1) * batch_size]
            # The last batch is filled up, so that one compilation serves all.
            indices = np.asarray(wanted + wanted[-1:] * (batch_size - len(wanted)), np.uint32)
            begins = start.of(indices, mesh) if start else None
            keyed = start.key_indices(indices) if start else indices
            progress.set_postfix_str(f"{there.sum() + n * batch_size} of {count} volumes")
            drawing = drawing or drawing_of(keyed, begins)
            begin = time.perf_counter()
            volumes = drawing(keyed, told, begins, on_progress=progress.update)
            if config.sample.dtype == "int16":
                volumes = as_int16(volumes)
            seconds += time.perf_counter() - begin
            for row, volume in take_rows(volumes, mesh):  # each process writes the volumes it holds
                if row < len(wanted):
                    writer.write(sample_path(folder, wanted[row]), volume[..., 0], data)
        progress.set_postfix_str(f"{count} of {count} volumes")

    failures = np.zeros(2, int)

    def look() -> None:
        found.update(samples_in(folder, missing))
        if len(found) < count:
            raise UserError(f"{folder}: {count - len(found)} samples cannot be read back: start again")
        failures[:] = tell_failures(found)
        first = ("start", start.volumes) if start else ("real", real_volumes(run, trained, data))
        write_montage(folder, count, first, data)

    multihost.on_all_processes(lambda: None)  # until all are written
    multihost.on_first_process(look)
    constant, with_nan = multihost.broadcast_from_first(failures).tolist()
    return {
        "count": count,
        "drawn": len(missing),
        "constant": constant,
        "with_nan": with_nan,
        "seconds_per_volume": seconds / len(missing) if missing else None,
        "step": step,
        "files": [str(sample_path(folder, i)) for i in range(count)],
        "montage": str(folder / "montage.png"),
    }


def real_volumes(run: Run, trained: dict[str, Any], recorded: dict[str, Any]) -> np.ndarray:
    """A few volumes of the training data, [n, D, H, W, 1]: where it was, or in `data.root`; none if it is not at hand.

    Args:
      run: whose `data.root`, `data.cache` and `data.records` count.
      trained: the run's config.json.
      recorded: the run's data.json. Other data than those it has learned from, where that is known, are not shown.
    """
    data, here = ConfigDict(trained["data"]), run.config.data
    data.root = here.root or data.root
    data.cache = here.cache or data.cache
    # Records may hold latents, which are nothing to look at.
    data.records = None if "latents" in run.task.reads else here.records or data.records
    try:
        there = found_identity(data, recorded)
        known = {key: (recorded.get("identity") or there).get(key) for key in there}
        if difference := first_difference(known, there, "data"):
            raise DataError(f"what is at hand are not the data of this run, {difference}")
        return first_volumes(data, PICTURES_A_ROW, recorded)
    except (DataError, OSError) as error:
        print(f"no real volumes in the montage: {error}", file=sys.stderr)
        return np.zeros((0, *here.size, 1), np.float32)


def write_montage(folder: pathlib.Path, count: int, first: tuple[str, np.ndarray], data: dict[str, Any]) -> None:
    """montage.png: in the first row what the samples are to be compared with, if there is any, then the first samples."""
    low, high = data["intensity_range"]
    pictured = [nifti.read_unchecked(sample_path(folder, i)).array for i in range(min(count, MOST_PICTURES))]
    generated = [(array - low) / (high - low) * 2.0 - 1.0 for array in pictured]
    name, volumes = first
    rows = [(name, [from_network(volume[..., 0], data["axes"]) for volume in volumes])]
    for start in range(0, len(generated), PICTURES_A_ROW):
        chunk = generated[start : start + PICTURES_A_ROW]
        rows.append((f"generated {start} to {start + len(chunk) - 1}", chunk))
    with written_aside(folder / "montage.png") as aside:
        montage(rows, np.asarray(data["affine"])).save(aside, format="PNG")
