"""`--mode=prepare`: preprocesses every volume of a dataset once and writes it to data.records, for training to stream.

For a task that reads an encoder's latents it writes those, as they are before quantisation.
"""

import contextlib
import os
import pathlib
import sys
import time
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from data_pipelines import prepare_records, records
from data_pipelines.batches import Dataset, open_dataset, train_batches
from data_pipelines.records import Latents
from data_pipelines.survey.table import CASES_CSV
from medjax.builders.assemble import Needs, assemble
from medjax.builders.pretrained import latents_of, local_encoder
from medjax.runtime import distributed, multihost
from medjax.runtime.mesh import AXES, make_mesh
from medjax.runtime.workdir import recorded_data

STREAMED_SECONDS = 3.0
EVERY_DEVICE = dict.fromkeys(AXES, 1) | {"data": -1}
RESULTS = ("volumes", "skipped", "bytes", "streamed_volumes_per_second", "files")  # null but for process 0


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes what is missing of the records, each process its part; process 0 then reads some of them as training will.

    Args:
      config: of which `data` counts, and `latents` where there is one.
      workdir: any folder; of a run that has a copy of what it encodes with, that serves where the original is gone; of a
        run on these scans, or fewer of them, that standardises intensities, its scale is kept. The records go to
        `data.records`, a folder that all processes share.

    Raises:
      DataError: a scan cannot be used, or the folder holds something else.
      UserError: that happened to another process.
    """
    with distributed.one_voice(), distributed.explain_lost_process():
        begin = time.perf_counter()
        latents, encode = encoder_of(config, workdir)
        rate = write_records(config.data, latents, encode, workdir / CASES_CSV, recorded_data(workdir))
        report = dict.fromkeys(RESULTS)
        multihost.on_first_process(lambda: report.update(read_records(config, latents)))
        distributed.leave()
        if rate and report["volumes"]:
            streamed = report["streamed_volumes_per_second"]
            times = f"{streamed / rate:.0f} times as many"
            print(f"decoded {rate:.3g} volumes/s, streamed {streamed:.3g}: {times}", file=sys.stderr)
        return report | {"seconds": time.perf_counter() - begin, "volumes_per_second": rate}


def encoder_of(config: ConfigDict, workdir: pathlib.Path) -> tuple[Latents | None, prepare_records.Encoder | None]:
    """Says which latents to write and what makes them of a volume [D, H, W, C]; (None, None) for volumes themselves."""
    # However training is to cut volumes and batches, here each process encodes its own, on its first device.
    run = assemble(config, workdir, Needs(pretrained="encoder", own=False), mesh=make_mesh(EVERY_DEVICE))
    latents = latents_of(run.pretrained, run.task)
    return latents, latents and local_encoder(run.task, run.pretrained.arrays)


def write_records(
    data: ConfigDict,
    latents: Latents | None,
    encode: prepare_records.Encoder | None,
    cases_csv: pathlib.Path,
    recorded: dict[str, Any] | None,
) -> float | None:
    """Writes what is missing; returns how many volumes a second all processes decoded together, None if none was left."""
    preparation = multihost.on_all_processes(lambda: prepare_records.plan(data, latents, cases_csv, recorded))
    # All have looked before one writes, so that all see the same.
    if multihost.on_all_processes(lambda: prepare_records.is_finished(preparation)):
        return None
    with contextlib.ExitStack() as held:
        undone = np.zeros(len(preparation.scans), bool)

        def begin() -> None:
            held.enter_context(prepare_records.sole_use(preparation))
            undone[prepare_records.missing(preparation)] = True

        multihost.on_first_process(begin)
        missing = np.flatnonzero(multihost.broadcast_from_first(undone)).tolist()
        part = missing[jax.process_index() :: jax.process_count()]
        start = time.perf_counter()
        multihost.on_all_processes(lambda: prepare_records.decode(preparation, part, encode))
        seconds = time.perf_counter() - start
        multihost.on_first_process(lambda: prepare_records.finish(preparation))
    return len(missing) / seconds if missing else None


def read_records(config: ConfigDict, latents: Latents | None) -> dict[str, Any]:
    """Reports what is there now, and how fast it can be read."""
    dataset = open_dataset(config.data, config.seed, latents)
    paths = [example.images[0] for example in dataset.train + dataset.validation + dataset.test]
    return {
        "volumes": len(paths),
        "skipped": dataset.skipped,
        "bytes": sum(records.sizes_on_disk(paths)),
        "streamed_volumes_per_second": streaming_rate(dataset, config.data.batch_size),
        "files": [os.fspath(path) for path in paths],
    }


def streaming_rate(dataset: Dataset, batch_size: int) -> float:
    """Volumes a second that training could be fed with, by one process that reads all rows of its batches."""
    batches = train_batches(dataset, 0, batch_size)
    next(batches)  # builds the pipeline
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < STREAMED_SECONDS:
        next(batches)
        count += batch_size
    return count / (time.perf_counter() - begin)
