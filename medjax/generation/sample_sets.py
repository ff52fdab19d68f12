"""A set of samples in a folder: what makes it that set and no other, and which of it is there already."""

import pathlib
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipelines.errors import DataError
from medjax.builders.pretrained import Frozen, decoding_of
from medjax.errors import UserError
from medjax.generation.files import THREADS, Extremes, extremes, sample_path
from medjax.runtime.checkpoints import fingerprint
from medjax.runtime.workdir import as_json, free_name, read_json, write_json
from medjax.task import Arrays

OF_FILES = ("axes", "affine", "intensity_range")  # of data.json: how a volume becomes a file
OF_MODEL = ("task", "model", "diffusion")  # of the configuration
OF_TRAINING = ("dtype", "precision")  # of the configuration's `train`, where it has them: how the network computes
OTHER_BATCHES = ("count", "batch_size")  # of the configuration's `sample`: samples are the same under any of these
LEFTOVERS = (".unfinished-*", ".settings.json.*", ".montage.png.*")  # of a job that was killed while it wrote


def settings(config: ConfigDict, step: int, params: Arrays, frozen: Frozen, data: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides what a sample is: equal settings, equal files but for rounding, which the machine decides.

    Args:
      config: of the run, with what is asked of this job.
      step: of the checkpoint, for people: `params` may be others at the same step of another run.
      params: what samples are drawn with, which their content names.
      frozen: what the task only reads.
      data: the run's data.json, with the affine that the files will have.

    Returns:
      Plain JSON data, with the keys of `config.sample` beside others.
    """
    irrelevant = OTHER_BATCHES if config.sample.start else (*OTHER_BATCHES, "strength")
    sample = {key: value for key, value in config.sample.to_dict().items() if key not in irrelevant}
    own = {
        "step": step,
        "weights": fingerprint(params),
        **{f"train_{key}": config.train.get(key) for key in OF_TRAINING},
        **{key: value for key, value in config.to_dict().items() if key in OF_MODEL},
        "files": {key: np.asarray(data[key]).tolist() for key in OF_FILES},
    }
    return as_json(own | decoding_of(config, frozen) | sample)


def open_folder(folder: pathlib.Path, settings: dict[str, Any]) -> None:
    """Makes the folder for samples of these settings; one of others, or of unknown ones, is renamed first.

    What a killed job left half written in it is removed: whoever calls holds the folder.
    """
    if folder.exists():
        for leftover in (path for pattern in LEFTOVERS for path in folder.glob(pattern)):
            leftover.unlink()
        if not _is_of(folder, settings):
            aside = free_name(folder)
            folder.rename(aside)
            print(f"{folder} holds samples of other weights or settings: moved to {aside}", file=sys.stderr)
    folder.mkdir(exist_ok=True)
    write_json(folder / "settings.json", settings)


def _is_of(folder: pathlib.Path, settings: dict[str, Any]) -> bool:
    try:
        return read_json(folder / "settings.json") == settings
    except UserError:  # missing or damaged
        return False


def samples_in(folder: pathlib.Path, numbers: Iterable[int]) -> dict[int, Extremes]:
    """Reads those of these samples of a set that are there, by number; a damaged file is renamed and left out."""
    there = {i: path for i in numbers if (path := sample_path(folder, i)).exists()}

    def read(path: pathlib.Path) -> Extremes | None:
        try:
            return extremes(path)
        except DataError as error:
            aside = free_name(path)
            path.rename(aside)
            print(f"{error}; moved to {aside.name}", file=sys.stderr)
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        found = dict(zip(there, pool.map(read, there.values()), strict=True))
    return {i: each for i, each in found.items() if each is not None}


def tell_failures(found: Mapping[int, Extremes]) -> tuple[int, int]:
    """Says on stderr which samples are no volumes to look at; returns how many are constant and how many have NaN."""
    constant = sorted(i for i, each in found.items() if each.constant)
    broken = sorted(i for i, each in found.items() if not each.finite)
    if constant:
        others = f" ({len(constant) - 1} more are constant)" if len(constant) > 1 else ""
        value = f"every voxel of sample_{constant[0]:05d} is {found[constant[0]].low:g}{others}"
        print(f"{value}: the model has collapsed or is untrained", file=sys.stderr)
    if broken:
        others = f" ({len(broken) - 1} more have some)" if len(broken) > 1 else ""
        advice = "sample another checkpoint, or with train.dtype=float32"
        print(f"the model draws NaN in sample_{broken[0]:05d}{others}: {advice}", file=sys.stderr)
    return len(constant), len(broken)
