"""Defines what a reader of a dataset is: how its scans are found, preprocessed and, for tests and trials, made up."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.cases import Case
from data_pipelines.preprocessing import Preprocessing
from data_pipelines.readers.atlas_layouts import Atlas
from data_pipelines.survey.found import Row
from data_pipelines.transforms import Shape


@dataclasses.dataclass(frozen=True)
class Found:
    """Holds what a reader found under a root.

    Attributes:
      cases: scans that can be used, as far as is known before they are decoded.
      rows: lines of cases.csv, of these cases and of all that is none; empty where the reader looks at its own files alone.
    """

    cases: tuple[Case, ...]
    rows: tuple[Row, ...] = ()


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Says which of a dataset's scans a config asks for.

    Attributes:
      channels: names of images, in the order wanted; empty for the reader's own choice.
      label_name: name of one of the reader's labels; None where none is asked for.
      voxel_size: (I, J, K) mm of files that do not say; None where a config leaves it open.
      label_map: whether each case is to have its label map.
      pattern: glob of the files that are images, whatever they look like; None where files tell by themselves.
      cache: folder for what is made of files once.
    """

    channels: tuple[str, ...] = ()
    label_name: str | None = None
    voxel_size: tuple[float, float, float] | None = None
    label_map: bool = False
    pattern: str | None = None
    cache: Path = Path()


@dataclasses.dataclass(frozen=True)
class Reader:
    """Says how one dataset is read; a new one is such a record in a file of its own, and a line in `READERS`.

    Attributes:
      find: function from the root, and what is chosen, to the cases there.
      preprocessing: function from the `data` part of a config, and (I, J, K) voxels, to what is done with a scan.
      write_made_up: function that lays made-up subjects out as this dataset's files in a cache folder and gives the root;
        None where the layout is none.
      channels: names that data.channels may hold; empty where the files decide.
      is_channel: function that tells further such names.
      several: whether one case may have several.
      label_maps: whether cases may have label maps.
      surveys: whether it takes any layout and tells itself what it found; data.pattern is for such a reader.
      labels: names that data.label_name may have.
      own_window: function that tells of the `data` part of a config whether intensities have the dataset's own window, not
        data.window.
    """

    find: Callable[[Path, Chosen], Found]
    preprocessing: Callable[[Any, Shape], Preprocessing]
    write_made_up: Callable[[Path, Atlas, int, tuple[str, ...]], Path] | None = None
    channels: tuple[str, ...] = ()
    is_channel: Callable[[str], bool] = lambda name: False
    several: bool = True
    label_maps: bool = False
    surveys: bool = False
    labels: tuple[str, ...] = ()
    own_window: Callable[[Any], bool] = lambda data: False
