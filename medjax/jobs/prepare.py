"""`--mode=prepare`: preprocesses every volume of a dataset once and writes it to data.records, for training to stream."""

import contextlib
import os
import pathlib
import sys
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from data_pipelines import preparing, records
from data_pipelines.batches import Dataset, open_dataset, train_batches
from medjax.runtime.agreement import first_alone, together

STREAMED_SECONDS = 3.0


def run(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Writes what is missing of the records, each process its part, then reads some of them as training will.

    Args:
      config: of which `data` counts.
      workdir: not used; the records go to `data.records`, a folder that all processes see.

    Raises:
      DataError: a scan cannot be used, or the folder holds something else.
    """
    del workdir
    begin, decoded_a_second = time.perf_counter(), None
    preparation = together(lambda: preparing.plan(config.data))
    # All have looked before one writes, so that all see the same.
    if not together(lambda: preparing.is_finished(preparation)):
        with contextlib.ExitStack() as held:
            first_alone(lambda: held.enter_context(preparing.sole_use(preparation)))
            missing = together(lambda: preparing.missing(preparation))
            part = missing[jax.process_index() :: jax.process_count()]
            decoding = time.perf_counter()
            together(lambda: preparing.decode(preparation, part))
            decoded_a_second = len(missing) / (time.perf_counter() - decoding) if missing else None
            together(lambda: preparing.check_notes(preparation))
            first_alone(lambda: preparing.finish(preparation))

    dataset = together(lambda: open_dataset(config.data, config.seed))
    paths = [example.path for example in dataset.train + dataset.validation + dataset.test]
    streamed_a_second = streaming_rate(dataset, config.data.batch_size)
    if decoded_a_second:
        times = streamed_a_second / decoded_a_second
        print(
            f"decoded {decoded_a_second:.3g} volumes/s, streamed {streamed_a_second:.3g}: {times:.0f} times as many",
            file=sys.stderr,
        )
    return {
        "volumes": len(paths),
        "skipped": dataset.skipped,
        "bytes": sum(records.sizes_on_disk(paths)),
        "seconds": time.perf_counter() - begin,
        "volumes_per_second": decoded_a_second,
        "streamed_volumes_per_second": streamed_a_second,
        "files": [os.fspath(path) for path in paths],
    }


def streaming_rate(dataset: Dataset, batch_size: int) -> float:
    """Volumes a second that training could be fed with by this process, all rows of its batches."""
    batches = train_batches(dataset, 0, batch_size)
    next(batches)  # builds the pipeline
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < STREAMED_SECONDS:
        next(batches)
        count += batch_size
    return count / (time.perf_counter() - begin)
