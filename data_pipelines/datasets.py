"""From the `data` part of a config to examples on disk, ready to be batched."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import atlas_files, brats, cache, folder, lidc, records, scans, transforms
from data_pipelines.atlas_files import Atlas
from data_pipelines.decoding import Preprocessing
from data_pipelines.errors import DataError
from data_pipelines.scans import Example, Scan
from data_pipelines.transforms import Shape

NAMES = ("atlas", "folder", "brats", "lidc", "synthetic")
MADE_UP_KEYS = ("atlas_count", "atlas_seed", "lesion_share")  # what made-up subjects depend on, besides the size


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
      prepared: the examples are prepared records (records.py), not decoded files (cache.py).
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
    prepared: bool = False

    def identity(self) -> dict[str, Any]:
        """Plain JSON data, equal for two datasets if and only if a model of one may go on training on the other."""
        return json.loads(json.dumps({"name": self.name, "size": self.size, "axes": self.axes, **self.parameters}))


@dataclasses.dataclass(frozen=True)
class Sources:
    """The scans that a config asks for, and what becomes of them.

    Attributes:
      scans: as they were found.
      preprocessing: from the path of one to its volume.
      parameters: of the dataset they make, the number of usable scans aside.
    """

    scans: tuple[Scan, ...]
    preprocessing: Preprocessing
    parameters: dict[str, Any]


def open_dataset(data: Any, seed: int) -> Dataset:
    """Finds and divides the volumes that a config asks for; what is not prepared is decoded and cached first.

    Args:
      data: the `data` part of a config, with attributes name, root, records, cache, size, axes, orientation, split,
        skip_bad_files; for "folder" spacing, fit, window, window_range; for "lidc" spacing; for the atlas, and for
        "brats" and "lidc" with atlas_layout=True and no root, atlas_count, atlas_seed, lesion_share. With records set
        nothing is read from root.
      seed: of the run; only "synthetic" volumes depend on it.

    Raises:
      DataError: with one line that says what cannot work.
    """
    check(data)
    if data.name == "synthetic":
        return Dataset(
            "synthetic", (), (), (), tuple(data.size), data.axes, np.eye(4), (0.0, 1.0), 0, 0, {"seed": seed}
        )
    if data.records:
        prepared = _open_records(data)
        examples = prepared.examples(records.folder_of(data.records))
        by_split = {side: [] for side in scans.SPLITS}
        for example, shard in zip(examples, prepared.shards, strict=True):
            by_split[shard.split].append(example)
        sides = {side: tuple(sorted(by_split[side], key=lambda example: example.name)) for side in scans.SPLITS}
        parameters = {k: v for k, v in prepared.identity.items() if k not in ("name", "size", "axes")}
        return _dataset(data, sides, prepared.skipped, parameters, prepared=True)

    sources = find_sources(data)
    examples = cache.decode(sources.scans, sources.preprocessing, _cache_folder(data), data.skip_bad_files)
    usable = [scan for scan in sources.scans if scan.name in examples]
    sides = {
        side: tuple(examples[scan.name] for scan in chosen)
        for side, chosen in scans.split(usable, tuple(data.split)).items()
    }
    skipped = len(sources.scans) - len(usable)
    return _dataset(data, sides, skipped, sources.parameters | {"count": len(usable)}, prepared=False)


def _dataset(
    data: Any, sides: dict[str, tuple[Example, ...]], skipped: int, parameters: dict[str, Any], prepared: bool
) -> Dataset:
    return Dataset(
        name=data.name,
        **sides,
        size=tuple(data.size),
        axes=data.axes,
        affine=sides["train"][0].affine,
        intensity_range=intensity_range(data),
        skipped=skipped,
        padded=sum(example.description.startswith("padded") for side in sides.values() for example in side),
        parameters=parameters,
        prepared=prepared,
    )


def first_examples(data: Any, count: int) -> tuple[Example, ...]:
    """The first few examples of a dataset, on whichever side of the split; no more is read, or made, than these.

    Args:
      data: as for `open_dataset`; "synthetic" has none.
      count: how many at most.

    Raises:
      DataError: the data cannot be found.
    """
    check(data)
    if data.name == "synthetic":
        return ()
    if data.records:
        return _open_records(data).examples(records.folder_of(data.records))[:count]
    sources = find_sources(data, min(count, data.atlas_count))
    examples = cache.decode(sources.scans[:count], sources.preprocessing, _cache_folder(data), skip_bad_files=True)
    return tuple(examples.values())


def find_sources(data: Any, atlas_count: int | None = None) -> Sources:
    """Finds the scans that a config asks for, or makes them up.

    Args:
      data: as for `open_dataset`.
      atlas_count: how many to make up; as `data` says by default.

    Raises:
      DataError: the scans cannot be found.
    """
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = _preprocessing(data, shape)
    atlas_count = data.atlas_count if atlas_count is None else atlas_count
    found, fingerprint = _find(data, shape, _cache_folder(data), atlas_count)
    parameters = {
        "preprocessing": dataclasses.asdict(preprocessing),
        "split": tuple(data.split),
        "fingerprint": fingerprint,
    }
    return Sources(found, preprocessing, parameters)


def settings(data: Any) -> dict[str, Any]:
    """The keys of `data` that decide what the volumes are, whatever the scans, as plain JSON data."""
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = dataclasses.asdict(_preprocessing(data, shape))
    del preprocessing["shape"]  # data.size and data.axes, said otherwise
    made_up = {key: getattr(data, key) for key in MADE_UP_KEYS} if _is_made_up(data) else {}
    own = {"name": data.name, "size": data.size, "axes": data.axes, "split": data.split}
    return json.loads(json.dumps(own | preprocessing | made_up))


def preprocessing_of(data: Any) -> Preprocessing:
    """From the path of any one scan to its volume, in [-1, 1], as the scans that a config asks for are preprocessed.

    Raises:
      DataError: a key of `data` cannot work; so does what is returned, for a scan that cannot be used.
    """
    check(data)
    return _preprocessing(data, transforms.voxel_shape(tuple(data.size), data.axes))


def intensity_range(data: Any) -> tuple[float, float]:
    """What -1 and 1 stand for in files: the values of a fixed window, or 0 and 1."""
    by_window = data.name in ("atlas", "folder") and data.window == "fixed"
    return tuple(float(value) for value in data.window_range) if by_window else (0.0, 1.0)


def _open_records(data: Any) -> records.Records:
    prepared = records.open_records(data.records)
    records.check_settings(prepared.settings, settings(data), records.folder_of(data.records))
    return prepared


def _cache_folder(data: Any) -> Path:
    return Path(data.cache).expanduser() if data.cache else cache.default_folder()


def check(data: Any) -> None:
    """Raises DataError for a key of a config's `data` that cannot work, whatever the scans."""
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
    if data.spacing is not None and (len(data.spacing) != 3 or min(data.spacing) <= 0):
        raise DataError(f"data.spacing is {tuple(data.spacing)}; give three edges in millimetres, or None")


def _preprocessing(data: Any, shape: Shape) -> Preprocessing:
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


def _is_made_up(data: Any) -> bool:
    return data.name == "atlas" or (data.atlas_layout and not data.root)


def _find(data: Any, shape: Shape, cache_folder: Path, atlas_count: int) -> tuple[tuple[Scan, ...], str]:
    """The scans of a dataset, `atlas_count` if they are made up, and a fingerprint of their sources."""
    if _is_made_up(data):
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
