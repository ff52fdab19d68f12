"""Defines what a dataset is made of: cases as they were found, and examples ready to be read."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_pipelines.formats import read
from data_pipelines.formats.dicom_series import Series


@dataclasses.dataclass(frozen=True)
class DicomSource:
    """A DICOM series, whose files may lie among others.

    Attributes:
      series: what its headers say.
      cache: folder where it is kept as NIfTI once it has been converted.
    """

    series: Series
    cache: Path


Source = Path | DicomSource  # of an image: a file, the folder of one DICOM series, or a series


@dataclasses.dataclass(frozen=True)
class Case:
    """One scan of a dataset, with all that belongs to it, still on disk.

    Attributes:
      name: unique name in its dataset; the same wherever the dataset lies.
      subject: whose scan it is; the cases of one subject stay on one side of a split.
      images: sources by the names of channels and in their order; the first gives the grid.
      label_map: a NIfTI file of whole numbers, if there is one.
      label: class of the whole scan, from 0, if it is known.
      digest: hash of what the files hold (contents.py); empty for scans that were made up.
      visit: which of the subject's visits; empty where there is one, or none is named.
      scalars: numbers known of the scan, such as age, by name.
    """

    name: str
    subject: str
    images: Mapping[str, Source]
    label_map: Path | None = None
    label: int | None = None
    digest: str = ""
    visit: str = ""
    scalars: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The first image, which errors name; of a series its folder."""
        source = next(iter(self.images.values()))
        return source.series.files[0].parent if isinstance(source, DicomSource) else source

    @property
    def sources(self) -> Iterator[Source]:
        """All that is read of it: the images, then the label map."""
        yield from self.images.values()
        if self.label_map is not None:
            yield self.label_map


@dataclasses.dataclass(frozen=True)
class Example:
    """One preprocessed case.

    Attributes:
      name: of the case.
      subject: of the case.
      images: float32 in uncompressed NIfTI (cache.py), a file for each channel; or one record that holds all (records.py).
      labels: int16 in uncompressed NIfTI; None without a label map, and where a record holds it.
      affine: [4, 4] float64, of the preprocessed images.
      description: what preprocessing noted, such as padding; usually empty.
      label: class of the whole scan, from 0, if it is known.
      scalars: numbers asked for, in their order; NaN where one is not known.
    """

    name: str
    subject: str
    images: tuple[Path, ...]
    labels: Path | None
    affine: np.ndarray
    description: str
    label: int | None = None
    scalars: tuple[float, ...] = ()


def files_of(source: Source) -> list[Path]:
    """Lists the files of a source, those of a folder or a series sorted by name.

    Raises:
      OSError: the folder cannot be read.
    """
    if isinstance(source, DicomSource):
        return sorted(source.series.files)
    return sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else read.parts(source)


def name_of(source: Source) -> str:
    """Says for people which source it is."""
    return source.series.name if isinstance(source, DicomSource) else str(source)
