"""From the `data` part of a config to examples on disk, ready to be batched."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import atlas_files, brats, cache, folder, lidc, scans, transforms
from data_pipelines.atlas_files import Atlas
from data_pipelines.cache import Example
from data_pipelines.errors import DataError
from data_pipelines.scans import Scan
from data_pipelines.transforms import Shape

NAMES = ("atlas", "folder", "brats", "lidc", "synthetic")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """What a run trains on: its examples divided by subject, decoded and on disk.

    Attributes:
      name: of the reader.
      train, validation, test: examples; all three are empty for "synthetic".
      size: (D, H, W) of the arrays a network sees.
      axes: which voxel axes these are: "ijk" or "kij".
      affine: [4, 4] float64, of the first training volume: samples take it.
      intensity_range: what -1 and 1 stand for in files: fixed window values such as HU, or 0 and 1 after quantiles.
      skipped: how many files could not be used.
      padded: how many scans were smaller than the published field of view.
      parameters: plain data that, with the sources, determines every volume.
    """

    name: str
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    size: Shape
    axes: str
    affine: np.ndarray
    intensity_range: tuple[float, float]
    skipped: int
    padded: int
    parameters: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """Plain JSON data, equal for two datasets if and only if a model of one may go on training on the other."""
        return json.loads(json.dumps({"name": self.name, "size": self.size, "axes": self.axes, **self.parameters}))


def open_dataset(data: Any, seed: int) -> Dataset:
    """Finds, divides, decodes and caches the volumes that a config asks for.

    Args:
      data: the `data` part of a config, with attributes name, root, cache, size, axes, orientation, split,
        skip_bad_files; for "folder" spacing, fit, window, window_range; for "lidc" spacing; for the atlas, and for
        "brats" and "lidc" with atlas_layout=True and no root, atlas_count, atlas_seed, lesion_share.
      seed: of the run; only "synthetic" volumes depend on it.

    Raises:
      DataError: with one line that says what cannot work.
    """
    _check(data)
    size = tuple(data.size)
    shape = transforms.voxel_shape(size, data.axes)
    if data.name == "synthetic":
        return Dataset("synthetic", (), (), (), size, data.axes, np.eye(4), (0.0, 1.0), 0, 0, {"seed": seed})

    cache_folder, preprocessing = _cache_folder(data), _preprocessing(data, shape)
    found, sources = _find(data, shape, cache_folder, data.atlas_count)
    examples = cache.decode(found, preprocessing, cache_folder, data.skip_bad_files)
    sides = scans.split([scan for scan in found if scan.name in examples], tuple(data.split))
    train, validation, test = (tuple(examples[scan.name] for scan in sides[side]) for side in scans.SPLITS)
    return Dataset(
        name=data.name,
        train=train,
        validation=validation,
        test=test,
        size=size,
        axes=data.axes,
        affine=train[0].affine,
        intensity_range=_intensity_range(data),
        skipped=len(found) - len(examples),
        padded=sum(example.description.startswith("padded") for example in examples.values()),
        parameters={
            "preprocessing": dataclasses.asdict(preprocessing),
            "split": tuple(data.split),
            "count": len(examples),
            "fingerprint": sources,
        },
    )


def first_examples(data: Any, count: int) -> tuple[Example, ...]:
    """The first few examples of a dataset, on whichever side of the split; no more is read, or made, than these.

    Args:
      data: as for `open_dataset`; "synthetic" has none.
      count: how many at most.

    Raises:
      DataError: the data cannot be found.
    """
    _check(data)
    if data.name == "synthetic":
        return ()
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    found, _ = _find(data, shape, _cache_folder(data), min(count, data.atlas_count))
    examples = cache.decode(found[:count], _preprocessing(data, shape), _cache_folder(data), skip_bad_files=True)
    return tuple(examples.values())


def _cache_folder(data: Any) -> Path:
    return Path(data.cache).expanduser() if data.cache else cache.default_folder()


def _check(data: Any) -> None:
    choices = {
        "name": NAMES,
        "axes": tuple(transforms.PERMUTATIONS),
        "orientation": ("RAS", "native"),
        "fit": ("crop", "resize"),
        "window": ("quantile", "fixed"),
    }
    for key, allowed in choices.items():
        if (value := getattr(data, key)) not in allowed:
            raise DataError(f"data.{key} is {value!r}; use one of {', '.join(allowed)}")
    if data.records is not None:
        raise DataError(f"data.records is {data.records}; prepared records cannot be read yet, leave it unset")
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
    if data.spacing is not None and (len(data.spacing) != 3 or min(data.spacing) <= 0):
        raise DataError(f"data.spacing is {tuple(data.spacing)}; give three edges in millimetres, or None")


def _preprocessing(data: Any, shape: Shape) -> cache.Preprocessing:
    match data.name:
        case "brats":
            return brats.Preprocessing(shape, data.orientation)
        case "lidc":
            return lidc.Preprocessing(shape, data.orientation, tuple(data.spacing or (1.0, 1.0, 1.0)))
        case _:
            return folder.Preprocessing(
                shape=shape,
                orientation=data.orientation,
                spacing=tuple(data.spacing) if data.spacing else None,
                window=data.window,
                window_range=tuple(data.window_range),
                fit=data.fit,
            )


def _intensity_range(data: Any) -> tuple[float, float]:
    by_window = data.name in ("atlas", "folder") and data.window == "fixed"
    return tuple(float(value) for value in data.window_range) if by_window else (0.0, 1.0)


def _find(data: Any, shape: Shape, cache_folder: Path, atlas_count: int) -> tuple[tuple[Scan, ...], str]:
    """The scans of a dataset, `atlas_count` if they are made up, and a fingerprint of their sources."""
    if data.name == "atlas" or (data.atlas_layout and not data.root):
        if atlas_count < 1:
            raise DataError(f"data.atlas_count is {atlas_count}; give the number of subjects to make")
        subjects = Atlas(data.atlas_seed, shape, data.lesion_share)
        match data.name:
            case "brats":
                found = brats.find_scans(atlas_files.write_as_brats(cache_folder, subjects, atlas_count))
            case "lidc":
                found = lidc.find_scans(atlas_files.write_as_lidc(cache_folder, subjects, atlas_count))
            case _:
                found = atlas_files.write_plain(cache_folder, subjects, atlas_count)
        # Other runs may have asked for more subjects. The fingerprint is not of the files, whose compression differs
        # from machine to machine.
        return found[:atlas_count], _sha256(f"{subjects} {atlas_count} {atlas_files.VERSION}")
    if not data.root:
        raise DataError(
            f"data.root is not set; give the folder of the {data.name} scans with --config.data.root=FOLDER"
        )
    root = Path(data.root).expanduser()
    find_scans = {"folder": folder.find_scans, "brats": brats.find_scans, "lidc": lidc.find_scans}[data.name]
    found = find_scans(root)
    return found, _sha256("\n".join(sorted(f"{scan.name} {_bytes_of(scan.path)}" for scan in found)))


def _bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
