"""`--mode=prepare`: preprocesses every volume of a dataset once and writes it to data.records, for training to stream."""

import contextlib
import os
import pathlib
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict
from orbax.checkpoint import multihost

from data_pipelines import prepare, records
from data_pipelines.batches import Dataset, open_dataset, train_batches

WAIT_MS = 7 * 24 * 3600 * 1000  # for the slowest process; one that is lost ends the others much sooner
STREAMED_SECONDS = 3.0


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes what is missing of the records, then reads some of them as training will. Any number of processes share the work.

    Args:
      config: of which `data` and `seed` count.
      workdir: not used; the records go to `data.records`.

    Raises:
      DataError: a scan cannot be used, or the folder is not for these records.
    """
    del workdir
    process, processes = jax.process_index(), jax.process_count()
    wait_for_all = multihost.get_barrier_sync_fn()
    begin = time.perf_counter()
    preparation = prepare.plan(config.data)
    rate = None
    if not prepare.is_finished(preparation):
        # Every process has looked before one writes, so that all see the same and fail alike.
        wait_for_all(key="prepare_looked", timeout_ms=WAIT_MS)
        with prepare.sole_use(preparation) if process == 0 else contextlib.nullcontext():
            wait_for_all(key="prepare_opened", timeout_ms=WAIT_MS)
            missing = prepare.missing(preparation)
            wait_for_all(key="prepare_counted", timeout_ms=WAIT_MS)
            decoding = time.perf_counter()
            prepare.decode(preparation, missing[process::processes])
            wait_for_all(key="prepare_decoded", timeout_ms=WAIT_MS)
            rate = len(missing) / (time.perf_counter() - decoding) if missing else None
            prepare.check_notes(preparation)
            if process == 0:
                prepare.finish(preparation)
            wait_for_all(key="prepare_finished", timeout_ms=WAIT_MS)

    dataset = open_dataset(config.data, config.seed)
    paths = [example.path for example in dataset.train + dataset.validation + dataset.test]
    streamed = streaming_rate(dataset, config.data.batch_size)
    if rate:
        print(
            f"decoded {rate:.3g} volumes/s, streamed {streamed:.3g}: {streamed / rate:.0f} times as many",
            file=sys.stderr,
        )
    return {
        "volumes": len(paths),
        "skipped": dataset.skipped,
        "bytes": sum(records.sizes_on_disk(paths)),
        "seconds": time.perf_counter() - begin,
        "volumes_per_second": rate,
        "streamed_volumes_per_second": streamed,
        "files": [os.fspath(path) for path in paths],
    }


def streaming_rate(dataset: Dataset, batch_size: int) -> float:
    """Volumes a second that training could be fed with, by this process."""
    batches = train_batches(dataset, 0, batch_size)
    next(batches)  # builds the pipeline
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < STREAMED_SECONDS:
        next(batches)
        count += batch_size
    return count / (time.perf_counter() - begin)
