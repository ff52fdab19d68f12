"""Prints the table of the data pipeline in docs/benchmarks.md: decoding against reading, memory, starting late, the survey.

  python benchmarks/data_table.py
  python benchmarks/data_table.py --subjects 24 --batches 5000 --files 10000

The scans are made up in BraTS's layout and at its size: two images of 240 x 240 x 155 voxels in int16 and a label map,
gzipped, which `configs/brats.py` brings to 128^3. Decoding is what the first run does with them; reading is training's
batches from what it leaves, in the cache or prepared as records. All is measured in one run on the cores there are, and held
against one another; seconds are of this machine.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import nibabel as nib  # noqa: E402
import numpy as np  # noqa: E402
from ml_collections import ConfigDict  # noqa: E402

from configs import brats, folder  # noqa: E402
from data_pipelines import prepare_records  # noqa: E402
from data_pipelines.batches import open_dataset, train_batches  # noqa: E402
from data_pipelines.datasets import Dataset  # noqa: E402
from data_pipelines.decoding import decode_each  # noqa: E402
from data_pipelines.sources import find_sources  # noqa: E402

SHAPE = (240, 240, 155)
AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
BATCH = 2
ROUNDS = 5  # of each way to read, taken in turns
LATE = 1_000_000  # the step at which a run that goes on may start


def write_scans(root: pathlib.Path, subjects: int) -> None:
    """Heads of smooth noise, with a label map, under the names of BraTS."""
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    head = (grid**2).sum(axis=0) < 0.7
    for n in range(subjects):
        name = f"BraTS-GLI-{n:05d}-000"
        folder = root / name
        folder.mkdir(parents=True)
        for series in ("t1n", "t2f"):
            array = np.where(head, 400 + 100 * grid[n % 3] + rng.normal(0, 30, SHAPE), 0).astype(np.int16)
            nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{name}-{series}.nii.gz")
        labels = (head & (grid[0] > 0.2)).astype(np.uint8) + (head & (grid[1] > 0.4))
        nib.save(nib.Nifti1Image(labels.astype(np.uint8), AFFINE), folder / f"{name}-seg.nii.gz")


def write_many(root: pathlib.Path, files: int) -> None:
    """Small scans, five a folder, for the survey to look at."""
    image = nib.Nifti1Image((np.arange(12**3).reshape(12, 12, 12) * 37 % 101).astype(np.int16), np.eye(4)).to_bytes()
    for n in range(files):
        folder = root / f"sub-{n // 5:05d}" / "anat"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"sub-{n // 5:05d}_run-{n % 5}_T1w.nii").write_bytes(image)


def config_of(scratch: pathlib.Path, **changes: Any) -> ConfigDict:
    """The data of `configs/brats.py` with two channels and a label map, all of it for training."""
    data = brats.get_config("128").data
    with data.unlocked():
        data.update({"root": f"{scratch}/scans", "cache": f"{scratch}/cache", "channels": ("t1n", "t2f")})
        data.update({"label_map": True, "split": (1.0, 0.0, 0.0)} | changes)
    return data


def decoding(data: ConfigDict) -> float:
    """Cases a second that are read from their files and preprocessed, nothing kept."""
    sources = find_sources(data)
    begin = time.perf_counter()
    failures = decode_each(sources.scans, sources.preprocessing, lambda scan, arrays: None)
    assert not failures
    return len(sources.scans) / (time.perf_counter() - begin)


def prepared(data: ConfigDict) -> Dataset:
    """The records of the same cases, made if need be."""
    preparation = prepare_records.plan(data)
    if not prepare_records.is_finished(preparation):
        with prepare_records.sole_use(preparation):
            prepare_records.decode(preparation, prepare_records.missing(preparation))
            prepare_records.finish(preparation)
    return open_dataset(data, 0)


def reading(batches: Iterator[Any], seconds: float) -> float:
    """Cases a second out of a stream of batches."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += BATCH
    return count / (time.perf_counter() - begin)


def growth(batches: Iterator[Any], count: int) -> tuple[float, float]:
    """MiB that this process holds in the first and in the second half of so many batches: medians of five readings each."""
    held = []
    for k in range(count):
        next(batches)
        if (k + 1) % (count // 10) == 0:
            held.append(resident() / 2**20)
    return statistics.median(held[:5]), statistics.median(held[5:])


def resident() -> int:
    """Bytes of memory that this process holds, as Linux says."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def seconds_of(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=16, help="whose scans are decoded and read")
    parser.add_argument("--batches", type=int, default=5000, help="over which memory is watched")
    parser.add_argument("--files", type=int, default=10_000, help="for the survey")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round of reading")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        write_scans(scratch / "scans", arguments.subjects)
        data = config_of(scratch)
        find_sources(data)  # so that all files are in the page cache
        rates = {"decoding": [decoding(data)], "cache": [], "records": []}
        cached = open_dataset(data, 0)
        records = prepared(config_of(scratch, records=f"{scratch}/records"))
        streams = {"cache": train_batches(cached, 0, BATCH), "records": train_batches(records, 0, BATCH)}
        for stream in streams.values():
            reading(stream, 1.0)
        for _ in range(ROUNDS):
            for way, stream in streams.items():
                rates[way].append(reading(stream, arguments.seconds))
            rates["decoding"].append(decoding(data))
        median = {way: statistics.median(found) for way, found in rates.items()}
        first, last = growth(train_batches(records, 1, BATCH), arguments.batches)
        early, late = (
            statistics.median(
                seconds_of(lambda step=step: next(train_batches(records, 0, BATCH, step))) for _ in range(5)
            )
            for step in (0, LATE)
        )
        write_many(scratch / "many", arguments.files)
        many = folder.get_config().data
        many.root, many.cache = f"{scratch}/many", f"{scratch}/cache"
        survey = seconds_of(lambda: find_sources(many))
    print(
        f"{os.cpu_count()} cores, {arguments.subjects} subjects: two images and a label map each; medians of {ROUNDS} rounds\n"
    )
    print("| what | cases a second | of decoding |")
    print("|---|---|---|")
    for way, rate in median.items():
        print(f"| {way} | {rate:.2f} | {rate / median['decoding']:.1f} |")
    print(
        f"\nmemory over {arguments.batches:,} batches of {BATCH}: {first:.0f} MiB in their first half, {last:.0f} in their second"
    )
    print(f"first batch at step 0: {early:.2f} s, at step {LATE:,}: {late:.2f} s")
    print(f"survey and digests of {arguments.files:,} files: {survey:.1f} s")
    print(
        json.dumps(
            {"cases_per_second": median, "memory_mib": [first, last], "first_batch": [early, late], "survey": survey}
        )
    )


if __name__ == "__main__":
    main()
