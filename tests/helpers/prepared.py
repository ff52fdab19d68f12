"""A folder of scans, the config that has them prepared, and the preparing itself."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np

from data_pipelines import prepare_records
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from test_batches import settings

SHAPE = (6, 5, 4)
N = 9


def scans_to_prepare(folder: Path) -> SimpleNamespace:
    """Nine scans of nine subjects, of axes that are not the world's, and the `data` part of a config for them.

    As paths "subject 6" comes before "subject 6-late", as text after it; both are for training.
    """
    rng = np.random.default_rng(0)
    for n, subject in enumerate(["6-late", *range(N - 1)]):
        affine = np.array([[0, -2.0, 0.1, n], [1.5, 0, 0, 5], [0, 0.1, 3, -n / 3], [0, 0, 0, 1]])
        volume = Volume(rng.uniform(0, 1000, (9, 8, 7)).astype(np.float32), affine)
        nifti.write(folder / f"scans/subject {subject}/t1.nii.gz", volume)
    return settings(
        root=str(folder / "scans"), cache=str(folder / "cache"), records=str(folder / "records"),
        size=SHAPE, fit="resize", split=(0.6, 0.2, 0.2), split_seed=13,
    )  # fmt: skip


def changed(data: SimpleNamespace, **changes) -> SimpleNamespace:
    return SimpleNamespace(**(vars(data) | changes))


def make(data: SimpleNamespace, processes: int = 1) -> None:
    """What the job does, its processes one after another."""
    preparation = prepare_records.plan(data)
    if not prepare_records.is_finished(preparation):
        with prepare_records.sole_use(preparation):
            missing = prepare_records.missing(preparation)
            for process in range(processes):
                prepare_records.decode(preparation, missing[process::processes])
            prepare_records.finish(preparation)


def contents(folder: Path | str) -> dict[str, bytes]:
    """What a folder holds, by name."""
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
