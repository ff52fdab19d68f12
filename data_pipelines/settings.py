"""Says what the keys of a config's `data` mean, and which values cannot work, whatever the scans."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from data_pipelines import subjects, transforms
from data_pipelines.augmentation import check_amounts
from data_pipelines.cache import default_folder
from data_pipelines.errors import DataError
from data_pipelines.preprocessing import LABELS, Preprocessing, parameters
from data_pipelines.readers import READERS, Reader
from data_pipelines.transforms import Shape

CHOICE = {"series": "one of", "channels": "some of"}
MADE_UP_KEYS = ("atlas_count", "atlas_seed", "lesion_share")  # what made-up subjects depend on, besides the size


def check(data: Any) -> None:
    """Raises DataError for a key of a config's `data` that cannot work, whatever the scans."""
    choices = {
        "name": (*READERS, "synthetic"),
        "axes": tuple(transforms.PERMUTATIONS),
        "orientation": ("RAS", "native"),
        "fit": ("crop", "resize", "brain"),
        "window": ("quantile", "fixed"),
        "standardise": (None, "", "nyul"),
    }
    for key, allowed in choices.items():
        if (value := getattr(data, key)) not in allowed:
            raise DataError(f"data.{key} is {value!r}; use one of {', '.join(filter(None, allowed))}")
    if data.records and data.name == "synthetic":
        raise DataError(f"data.records is {data.records}, but data.name=synthetic reads no files; leave it unset")
    if len(data.size) != 3 or min(data.size) < 2:
        raise DataError(f"data.size is {tuple(data.size)}; give three edges (D, H, W) in voxels")
    if len(data.split) != 3 or min(data.split) < 0 or data.split[0] <= 0:
        raise DataError(f"data.split is {tuple(data.split)}; give three fractions (train, validation, test)")
    if data.root and data.name in ("atlas", "synthetic"):
        raise DataError(f"data.root is {data.root}, but data.name={data.name} reads no files; use configs/folder.py")
    low, high = data.window_range
    if data.window == "fixed" and (low, high) == (0.001, 0.999):
        raise DataError("data.window is 'fixed' but data.window_range is still of quantiles; give two intensities")
    if not low < high or (data.window == "quantile" and not 0 <= low < high <= 1):
        raise DataError(f"data.window_range is ({low:g}, {high:g}) for data.window={data.window!r}; give (low, high)")
    for key in ("spacing", "voxel_size"):
        if (edges := getattr(data, key)) is not None and (len(edges) != 3 or min(edges) <= 0):
            raise DataError(f"data.{key} is {tuple(edges)}; give three edges in millimetres, or None")
    _check_standardise(data)
    check_seed("data.atlas_seed", data.atlas_seed)
    if data.subject_pattern:
        subjects.compiled(data.subject_pattern)
    if data.margin < 0:
        raise DataError(f"data.margin is {data.margin}; give 0 voxels or more")
    check_amounts(data)
    _check_series_and_labels(data)


def check_seed(key: str, seed: int) -> None:
    """Raises DataError unless a seed is one that JAX and TensorFlow both take as it is."""
    if not 0 <= seed < 2**32:
        raise DataError(f"{key} is {seed}; give a whole number from 0 to {2**32 - 1}")


def settings(data: Any) -> dict[str, Any]:
    """The keys of `data` that decide what the volumes are, whatever the scans, as plain JSON data."""
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = parameters(make_preprocessing(data, shape))
    del preprocessing["shape"]  # data.size and data.axes, said otherwise
    made_up = {key: getattr(data, key) for key in MADE_UP_KEYS} if is_made_up(data) else {}
    own = {key: getattr(data, key) for key in ("name", "size", "axes", "split", "split_seed")}
    chosen = {
        key: getattr(data, key)
        for key in ("series", "label_name", "subject_pattern", "standardise")
        if getattr(data, key)
    }
    return json.loads(json.dumps(own | preprocessing | made_up | chosen | arrays_of(data)))


def channels(data: Any) -> tuple[str, ...]:
    """Names the images that a config asks for, in their order; () leaves the choice to the reader."""
    return tuple(data.channels) if data.channels else (data.series,) if data.series else ()


def arrays_of(data: Any) -> dict[str, Any]:
    """The keys that say what besides one image a scan is to give, as far as they are set."""
    asked = {"channels": tuple(data.channels or ()), "label_map": data.label_map, "pattern": data.pattern}
    return {key: value for key, value in asked.items() if value}


def make_preprocessing(data: Any, shape: Shape) -> Preprocessing:
    """Makes the preprocessing that a config asks for: from a case to its arrays of `shape` voxels."""
    return READERS[data.name].preprocessing(data, shape)


def preprocessing_of(data: Any, scales: tuple[tuple[float, ...], ...] | None = None) -> Preprocessing:
    """Makes a function from a case to its arrays, images in [-1, 1], preprocessed as a config asks.

    Args:
      data: of a config.
      scales: the standard scale of each image, which data.standardise needs.

    Raises:
      DataError: a key of `data` cannot work; so does what is returned, for a scan that cannot be used.
    """
    check(data)
    preprocessing = make_preprocessing(data, transforms.voxel_shape(tuple(data.size), data.axes))
    if not data.standardise:
        return preprocessing
    if scales is None:
        raise DataError(f"data.standardise is {data.standardise!r}, but no scale is recorded; train a step first")
    return dataclasses.replace(preprocessing, scales=scales)


def intensity_range(data: Any) -> tuple[float, float]:
    """Returns what -1 and 1 stand for in files: the values of a fixed window, or 0 and 1."""
    own = data.name != "synthetic" and READERS[data.name].own_window(data)
    by_window = data.name != "synthetic" and not own and data.window == "fixed"
    return tuple(float(value) for value in data.window_range) if by_window else (0.0, 1.0)


def has_labels(data: Any) -> bool:
    """Whether a config asks for labels of whole scans."""
    return bool(data.label_name or data.labels)


def is_made_up(data: Any) -> bool:
    """Whether the scans are the atlas's, in whatever layout."""
    return data.name == "atlas" or (data.atlas_layout and not data.root)


def cache_folder(data: Any) -> Path:
    """Returns the folder of preprocessed and made-up volumes."""
    return Path(data.cache).expanduser() if data.cache else default_folder()


def _check_standardise(data: Any) -> None:
    if not data.standardise:
        return
    asked = f"data.standardise is {data.standardise!r}, but"
    if data.name == "synthetic" or is_made_up(data):
        raise DataError(f"{asked} made-up scans are of one scale as they are; leave it unset")
    if READERS[data.name].own_window(data):
        raise DataError(f"{asked} data.name={data.name} has intensities as published; leave it unset, or use folder")
    if data.window == "fixed":
        raise DataError(f"{asked} data.window='fixed' is for intensities that have a unit; use one of the two")


def _check_series_and_labels(data: Any) -> None:
    reader = READERS.get(data.name)
    if data.series and data.channels:
        raise DataError(f"data.series is {data.series!r} and data.channels is {data.channels}; use data.channels alone")
    if data.series and not (reader and reader.channels):
        raise DataError(f"data.series is {data.series!r}, but data.name={data.name} has no choice; leave it unset")
    for key, names in (("series", (data.series,) if data.series else ()), ("channels", tuple(data.channels or ()))):
        for name in names if reader and reader.channels else ():
            if name not in reader.channels and not reader.is_channel(name):
                raise DataError(f"data.{key} is {getattr(data, key)!r}; use {CHOICE[key]} {', '.join(reader.channels)}")
    _check_arrays(data, reader)
    _check_scalars(data)
    if data.label_name and data.labels:
        raise DataError(f"data.label_name is {data.label_name!r} and data.labels is {data.labels}; use one of the two")
    if data.label_name:
        known = (*(reader.labels if reader else ()), *(("lesion",) if is_made_up(data) else ()))
        if data.label_name not in known:
            advice = f"use one of {', '.join(known)}" if known else "give labels by a file, data.labels=FILE.csv"
            raise DataError(f"data.label_name is {data.label_name!r} for data.name={data.name}; {advice}")


def _check_scalars(data: Any) -> None:
    names = tuple(data.scalars or ())
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise DataError(f'data.scalars is {names}; give different names of columns, such as ("age",)')
    if data.table and not names:
        raise DataError(
            f"data.table is {data.table}, but no column of it is asked for; set data.scalars, or leave it unset"
        )
    for key in ("scalars", "split_table"):
        if getattr(data, key) and data.name == "synthetic":
            raise DataError(
                f"data.{key} is {getattr(data, key)}, but data.name=synthetic has no subjects; leave it unset"
            )


def _check_arrays(data: Any, reader: Reader | None) -> None:
    names = tuple(data.channels or ())
    if not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names) or LABELS in names:
        raise DataError(f'data.channels is {names}; give different names of images, such as ("t1n", "t2f")')
    if reader is None:
        if names or data.label_map:
            raise DataError(
                f"data.channels, data.label_map: data.name={data.name} has one image alone; leave them unset"
            )
        return
    if len(names) > 1 and not reader.several:
        raise DataError(f"data.channels is {names}, but scans of data.name={data.name} have one image each; give one")
    if data.pattern and not reader.surveys:
        raise DataError(f"data.pattern is {data.pattern!r}, but data.name={data.name} knows its files; leave it unset")
    if data.label_map and not reader.label_maps:
        raise DataError(f"data.label_map is True, but data.name={data.name} has no label maps; set it to False")
