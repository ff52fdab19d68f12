"""Brings a case to arrays of one grid: what every dataset's preprocessing begins with, and what it gives."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_pipelines import transforms
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume

LABELS = "labels"  # the key of the label map among arrays, which no channel may be called
LARGEST = np.iinfo(np.int16).max  # of labels

Arrays = Mapping[
    str, Volume
]  # by the names of channels, in their order, and LABELS if there is a label map; of one grid
Preprocessing = Callable[[Case], Arrays]
OPTION = {"option": True}  # metadata of fields that say nothing while they have their default


def nan_of(nan_background: bool) -> Literal["least"] | None:
    """Says what data.nan_background makes of voxels that are NaN, as `read.read` takes it."""
    return "least" if nan_background else None


def parameters(preprocessing: Preprocessing) -> dict[str, Any]:
    """Names what decides the volumes: the fields of a frozen dataclass, less each `OPTION` that is not made use of.

    So a new option leaves the identity of runs, and the place of volumes in the cache, as they are.
    """
    fields = dataclasses.fields(preprocessing)
    unused = {f.name for f in fields if f.metadata.get("option") and getattr(preprocessing, f.name) == f.default}
    return {key: value for key, value in dataclasses.asdict(preprocessing).items() if key not in unused}


def written(preprocessing: Preprocessing) -> str:
    """Writes a preprocessing as its repr would, less each `OPTION` that is not made use of."""
    values = ", ".join(f"{name}={getattr(preprocessing, name)!r}" for name in parameters(preprocessing))
    return f"{type(preprocessing).__qualname__}({values})"


def on_one_grid(case: Case, read: Callable[[Path], Volume]) -> dict[str, Volume]:
    """Reads the images and the label map of a case, all brought to the voxels of the first image.

    Args:
      case: what to read.
      read: how an image is read.

    Returns:
      Volumes by the names of channels, and the label map, if there is one, as `LABELS`.

    Raises:
      DataError: a file cannot be used.
    """
    images = {name: read(path) for name, path in case.images.items()}
    grid = next(iter(images.values()))
    arrays = {name: transforms.onto(volume, grid) for name, volume in images.items()}
    if case.label_map is not None:
        arrays[LABELS] = transforms.onto(read_label_map(case.label_map), grid, order=0)
    return arrays


def read_label_map(path: Path) -> Volume:
    """Reads whole numbers from 0 to 32767; one without any but 0 is one of a case without findings.

    Raises:
      DataError: it cannot be read, or holds other values.
    """
    volume = nifti.read_unchecked(path)
    array = volume.array
    if not (
        np.isfinite(array).all()
        and array.min() >= 0
        and array.max() <= LARGEST
        and np.array_equal(array, np.rint(array))
    ):
        raise DataError(
            f"{path}: values from {array.min():g} to {array.max():g}, a label map holds whole numbers from 0 to {LARGEST}; "
            "replace it, or set data.label_map=False"
        )
    return volume


def of_images(arrays: Arrays, change: Callable[[Volume], Volume]) -> dict[str, Volume]:
    """Changes the images among arrays; the label map stays."""
    return {name: volume if name == LABELS else change(volume) for name, volume in arrays.items()}


def of_each(
    arrays: Arrays, of_image: Callable[[Volume], Volume], of_labels: Callable[[Volume], Volume]
) -> dict[str, Volume]:
    """Changes the images in one way and the label map in another, such as without interpolation."""
    return {name: (of_labels if name == LABELS else of_image)(volume) for name, volume in arrays.items()}
