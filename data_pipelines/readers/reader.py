"""Defines what a reader of a dataset is: how its scans are found, preprocessed and, for tests and trials, made up."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.cases import Case
from data_pipelines.decoding import Preprocessing
from data_pipelines.readers.atlas_layouts import Atlas
from data_pipelines.transforms import Shape


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Says which of a dataset's scans a config asks for.

    Attributes:
      series: name of one of the reader's series; None for the first.
      label_name: name of one of the reader's labels; None where none is asked for.
      voxel_size: (I, J, K) mm of files that do not say; None where a config leaves it open.
    """

    series: str | None = None
    label_name: str | None = None
    voxel_size: tuple[float, float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Reader:
    """Says how one dataset is read; a new one is such a record in a file of its own, and a line in `READERS`.

    Attributes:
      find: function from the root, and what is chosen, to the cases there.
      preprocessing: function from the `data` part of a config, and (I, J, K) voxels, to what is done with a scan.
      write_made_up: function that lays made-up subjects out as this dataset's files in a cache folder and gives the root;
        None where the layout is none.
      series: names that data.series may have.
      is_series: function that tells further names for data.series.
      labels: names that data.label_name may have.
      own_window: function that tells of the `data` part of a config whether intensities have the dataset's own window, not
        data.window.
    """

    find: Callable[[Path, Chosen], tuple[Case, ...]]
    preprocessing: Callable[[Any, Shape], Preprocessing]
    write_made_up: Callable[[Path, Atlas, int, str | None], Path] | None = None
    series: tuple[str, ...] = ()
    is_series: Callable[[str], bool] = lambda name: False
    labels: tuple[str, ...] = ()
    own_window: Callable[[Any], bool] = lambda data: False
