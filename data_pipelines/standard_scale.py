"""Finds the standard scale of intensities (nyul.py) of a run: of its training scans alone, or the one it has recorded.

The scale is part of the preprocessing, so of a run's identity and of where volumes lie in the cache. A run keeps the scale
that it began with: another would shift every volume it has learned from.
"""

import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from data_pipelines import nyul
from data_pipelines.aside import written_aside
from data_pipelines.cache import VERSION, state_of
from data_pipelines.cases import Case
from data_pipelines.decoding import decode_each, refuse_failures
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import cannot_write
from data_pipelines.preprocessing import Preprocessing, parameters, written
from data_pipelines.settings import cache_folder
from data_pipelines.sources import Sources

LANDMARKS = 1 + len(nyul.PERCENTILES)

Scales = tuple[tuple[float, ...], ...]  # of each image, in the order of channels


def standardised(
    data: Any, sources: Sources, side_of: Mapping[str, str], recorded: Mapping[str, Any] | None = None
) -> Sources:
    """The sources with intensities on a standard scale if data.standardise asks for one; as they are otherwise.

    Args:
      data: of a config.
      sources: of which the scans of training subjects are read, if the scale is neither recorded nor in the cache.
      side_of: the side of the split of each subject.
      recorded: the run's data.json, whose scale is kept; None for a new run.

    Raises:
      DataError: a training scan cannot be used (unless skipped), or the recorded scale is damaged.
    """
    if not data.standardise:
        return sources
    scales = scales_in(recorded) if recorded else None
    if scales is None or any(len(scan.images) != len(scales) for scan in sources.scans):
        training = [scan for scan in sources.scans if side_of[scan.subject] == "train"]
        if len({scan.subject for scan in training}) == 1:
            print("data.standardise: the scale is of the one training subject alone; take more", file=sys.stderr)
        scales = _found(training, sources.preprocessing, cache_folder(data), data.skip_bad_files)
    preprocessing = dataclasses.replace(sources.preprocessing, scales=scales)
    described = sources.parameters | {"preprocessing": parameters(preprocessing)}
    return dataclasses.replace(sources, preprocessing=preprocessing, parameters=described)


def scales_in(recorded: Mapping[str, Any]) -> Scales | None:
    """The scale that a run's data.json holds; None if it holds none.

    Raises:
      DataError: what it holds is no scale.
    """
    identity = recorded.get("identity")
    preprocessing = identity.get("preprocessing") if isinstance(identity, Mapping) else None
    scales = preprocessing.get("scales") if isinstance(preprocessing, Mapping) else None
    if scales is None:
        return None
    if not isinstance(scales, list) or not scales or not all(_is_scale(scale) for scale in scales):
        raise DataError(f"data.json of this run is damaged (preprocessing.scales is {scales!s:.60}); restore it")
    return tuple(tuple(float(value) for value in scale) for scale in scales)


def _is_scale(scale: Any) -> bool:
    numbers = isinstance(scale, list) and all(isinstance(value, (int, float)) for value in scale)
    return numbers and len(scale) == LANDMARKS and all(map(math.isfinite, scale)) and scale == sorted(scale)


def _found(training: Sequence[Case], preprocessing: Preprocessing, cache: Path, skip_bad_files: bool) -> Scales:
    """The scale of these scans, from the cache where it was found before; processes of one machine wait for one."""
    states = sorted(f"{scan.name} {state_of(scan)}" for scan in training)
    digest = hashlib.sha256("\n".join([written(preprocessing), str(VERSION), *states]).encode()).hexdigest()[:16]
    folder = cache / "scales"
    path = folder / f"{digest}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            if (scales := _read(path)) is None:
                scales = _measured(training, preprocessing, skip_bad_files)
                with written_aside(path) as aside:
                    aside.write_text(json.dumps({"identity": {"preprocessing": {"scales": scales}}}))
    except OSError as error:
        raise cannot_write(folder, error) from error
    return scales


def _read(path: Path) -> Scales | None:
    """The scale in a file of the cache; None where there is none, or a damaged one."""
    try:
        return scales_in(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, AttributeError, DataError):
        return None


def _measured(training: Sequence[Case], preprocessing: Preprocessing, skip_bad_files: bool) -> Scales:
    """The scale of scans that are read once each, as many at a time as are decoded at a time; kept are a few numbers."""
    of_scans: dict[str, list[nyul.Measured]] = {}

    def keep(scan: Case, measured: Mapping[str, nyul.Measured]) -> None:
        of_scans[scan.name] = list(measured.values())

    failures = decode_each(training, preprocessing.measured, keep, "measuring intensities")
    refuse_failures(list(failures.values()), len(training), skip_bad_files)
    try:
        return tuple(nyul.scale_in_window(of_image) for of_image in zip(*of_scans.values(), strict=True))
    except ValueError as error:
        raise DataError(f"data.standardise: {error}; change data.window_range, or leave it unset") from error
