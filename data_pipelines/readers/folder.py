"""Any folder of files that hold one volume each, of any orientation, spacing and shape."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import brains, nyul, transforms
from data_pipelines.cases import Case, DicomSource, Source
from data_pipelines.claims import MOST_VOXELS
from data_pipelines.errors import DataError
from data_pipelines.far_values import far_value
from data_pipelines.formats import affines, dicom_convert, read
from data_pipelines.formats.nifti import Volume
from data_pipelines.notices import Kind, Notice
from data_pipelines.preprocessing import OPTION, Arrays, nan_of, of_each, on_one_grid
from data_pipelines.subjects import subject_of
from data_pipelines.transforms import Shape

VOXEL_SIZE = (1.0, 1.0, 1.0)  # mm, of files that do not say


def find_cases(root: Path) -> tuple[Case, ...]:
    """Every file under a folder, at any depth, that `read.is_image` takes for a volume.

    Whose each is, its path says, as subjects.py reads it.

    Raises:
      DataError: the folder does not exist, is empty, or has no such file in it.
    """
    files = list_files(root)
    scans = [path for path in files if read.is_image(path)]
    unread = [(path, how) for path in files if (how := read.advice(path))]
    if not scans:
        found = ", ".join(sorted({"".join(path.suffixes[-2:]) or path.name for path in files})[:5])
        how = unread[0][1] if unread else "convert to NIfTI"
        raise DataError(f"data.root={root}: {len(files)} files ({found}), none {', '.join(read.SUFFIXES)}; {how}")
    if unread:
        path, how = unread[0]
        print(f"data.root={root}: {len(unread)} volumes are left out, such as {path.name}: {how}", file=sys.stderr)
    names = [path.relative_to(root).as_posix() for path in scans]
    return tuple(Case(name, subject_of(name), {"image": path}) for name, path in zip(names, scans, strict=True))


def list_files(root: Path) -> list[Path]:
    """All files under a folder, sorted; a DataError if there is no such folder or nothing in it."""
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data.root={root}: {found}; give the folder that holds the scans")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    if not files:
        raise DataError(f"data.root={root}: the folder is empty; give the folder that holds the scans")
    return files


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Turns a file into what training reads: orientation, spacing, intensity window, shape; in this order.

    Attributes:
      shape: (I, J, K) voxels.
      orientation: "RAS" or "native".
      spacing: (I, J, K) millimetres to resample to; None keeps each file's own.
      window: "quantile" or "fixed": what `window_range` is, a pair of quantiles or of intensities (HU, for a CT).
      window_range: is mapped to [-1, 1], what lies outside clipped to it.
      fit: "crop" crops and pads (with -1) to the shape about the centre, "resize" interpolates to it, "brain" too, but
        of the box of the brain (brains.py), padded to be of the shape's proportions: in scans whose skulls are stripped.
      margin: voxels to leave around the brain.
      voxel_size: (I, J, K) mm of files that do not say.
      nan_background: whether voxels that are NaN become the scan's least value, or the file is refused.
      scales: of each image, where its landmarks come to lie in [-1, 1] (nyul.py), in place of the window of its own; None
        where intensities are not standardised.
    """

    shape: Shape
    orientation: str = "RAS"
    spacing: tuple[float, float, float] | None = None
    window: str = "quantile"
    window_range: tuple[float, float] = (0.001, 0.999)
    fit: str = "crop"
    margin: int = 0
    voxel_size: tuple[float, float, float] = VOXEL_SIZE
    nan_background: bool = dataclasses.field(default=False, metadata=OPTION)
    scales: tuple[tuple[float, ...], ...] | None = dataclasses.field(default=None, metadata=OPTION)

    def read(self, path: Source) -> Volume:
        """The file as it is. The axes of an .npy are taken to run to the right, the front and the top."""
        if isinstance(path, DicomSource):
            return dicom_convert.read(path.series, path.cache)
        return read.read(path, nan=nan_of(self.nan_background), voxel_size=self.voxel_size)

    def __call__(self, case: Case) -> Arrays:
        arrays, box = self._in_place(case)
        for n, (name, path) in enumerate(case.images.items()):
            arrays[name] = self._windowed(path, arrays[name], self.scales and self.scales[n])
        return of_each(
            arrays,
            lambda image: self._fitted(image, box, fill=-1.0, order=3),
            lambda labels: self._fitted(labels, box, fill=0.0, order=0),
        )

    def measured(self, case: Case) -> dict[str, nyul.Measured]:
        """Measures each image as it is where intensities are standardised, for a scale of many.

        Raises:
          DataError: a file cannot be used.
        """
        arrays, _ = self._in_place(case)
        for name, path in case.images.items():
            self._check_contrast(path, arrays[name], *np.quantile(arrays[name].array, self.window_range))
        return {name: nyul.measured(arrays[name].array, self.window_range) for name in case.images}

    def _in_place(self, case: Case) -> tuple[dict[str, Volume], tuple[slice, ...] | None]:
        """The arrays in the orientation and the spacing asked for, their intensities as they are, and the box of the brain."""
        arrays = on_one_grid(case, self._read_and_noted)
        box, first = None, next(iter(case.images))
        if self._interpolates:
            check_straight(case.path, arrays[first])
        if self.fit == "brain":
            brain = brain_of(case.path, arrays[first])
            share = brain.array[brains.box(brain.array, margin=0)].size / brain.array.size
            arrays[first] = _noted(arrays[first], Notice(Kind.BRAIN, share=share))
            box = brains.box(self._placed(brain, order=0).array, self.margin)
        arrays = of_each(
            arrays, lambda image: self._placed(image, order=3), lambda labels: self._placed(labels, order=0)
        )
        return arrays, box

    def _read_and_noted(self, path: Path) -> Volume:
        volume = self.read(path)
        # Here, not later: interpolation leaves no two voxels the same.
        if self.window == "quantile" and (far := far_value(volume.array)):
            volume = _noted(volume, far)
        if self.fit == "brain":
            darkest = self.window_range[0] if self.window == "fixed" else np.inf
            volume = dataclasses.replace(volume, array=brains.with_dark_background(volume.array, darkest))
        return volume

    @property
    def _interpolates(self) -> bool:
        return self.spacing is not None or self.fit != "crop"

    def _placed(self, volume: Volume, order: int) -> Volume:
        """The volume in the orientation and the spacing asked for, on straight axes if it is interpolated in any case."""
        if self._interpolates:
            volume = transforms.straightened(volume, order)
        volume = transforms.to_orientation(volume, self.orientation)
        return volume if self.spacing is None else transforms.resample(volume, self.spacing, order)

    def _windowed(self, path: Path, volume: Volume, scale: tuple[float, ...] | None) -> Volume:
        low, high = self.window_range
        if self.window == "quantile":
            low, high = np.quantile(volume.array, self.window_range)
        self._check_contrast(path, volume, low, high)
        if scale is None:
            return transforms.window(volume, low, high)
        landmarks = nyul.measured(volume.array, self.window_range).landmarks
        array = nyul.standardised(volume.array, landmarks, np.asarray(scale))
        return dataclasses.replace(volume, array=np.clip(array, -1, 1, out=array))

    def _check_contrast(self, path: Path, volume: Volume, low: float, high: float) -> None:
        if not low < high or volume.array.min() >= high or volume.array.max() <= low:
            raise DataError(
                f"{path}: no contrast in the window {low:g} to {high:g} (values are {volume.array.min():g} to "
                f"{volume.array.max():g}); change data.window_range or remove the file"
            )

    def _fitted(self, volume: Volume, box: tuple[slice, ...] | None, fill: float, order: int) -> Volume:
        if self.fit == "crop":
            return transforms.crop_or_pad(volume, self.shape, fill)
        if box:
            brain = transforms.crop(volume, box)
            scale = max(n / m for n, m in zip(brain.array.shape, self.shape, strict=True))
            volume = transforms.crop_or_pad(brain, tuple(math.ceil(scale * m) for m in self.shape), fill)
        resized = transforms.resize(volume, self.shape, order)
        if order == 0:
            return resized
        return dataclasses.replace(resized, array=np.clip(resized.array, -1, 1))  # cubic splines overshoot


def brain_of(path: Path, volume: Volume) -> Volume:
    """The voxels that are brain, 1 there and 0 elsewhere.

    Raises:
      DataError: no voxel is above 0.
    """
    if not (volume.array > 0).any():
        raise DataError(f"{path}: no voxel is above 0, so there is no brain to crop to; set data.fit or remove it")
    brain = brains.inside(volume.array, brains.levels(volume.array))
    return dataclasses.replace(volume, array=brain.astype(np.uint8))


def check_straight(path: Path, volume: Volume) -> None:
    """Raises DataError for a volume so sheared that a straight grid of more than `MOST_VOXELS` would have to hold it."""
    _, shape = affines.straight_grid(volume.affine, volume.array.shape)
    if affines.shear(volume.affine) > affines.SHEARED and math.prod(shape) > MOST_VOXELS:
        size = "x".join(str(n) for n in shape)
        raise DataError(f"{path}: so sheared that {size} voxels are needed to make it straight; correct its affine")


def _noted(volume: Volume, notice: Notice) -> Volume:
    return dataclasses.replace(volume, notices=(*volume.notices, notice))


def common_fields(data: Any, shape: Shape) -> dict[str, Any]:
    """Reads from a config what every `Preprocessing` of files has, but for the voxels of those that do not say."""
    return {
        "shape": shape,
        "orientation": data.orientation,
        "spacing": tuple(data.spacing) if data.spacing else None,
        "window": data.window,
        "window_range": tuple(data.window_range),
        "fit": data.fit,
        "margin": data.margin,
        "nan_background": data.nan_background,
    }


def chosen_preprocessing(data: Any, shape: Shape) -> Preprocessing:
    """Makes the preprocessing that a config asks for."""
    voxel_size = tuple(data.voxel_size) if data.voxel_size else VOXEL_SIZE
    return Preprocessing(**common_fields(data, shape), voxel_size=voxel_size)
