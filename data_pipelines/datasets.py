"""From the `data` part of a config to examples on disk, ready to be batched."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import (
    adni,
    atlas_files,
    brats,
    cache,
    duke,
    folder,
    labels,
    lidc,
    mrnet,
    records,
    scans,
    transforms,
)
from data_pipelines.atlas_files import Atlas
from data_pipelines.decoding import Preprocessing
from data_pipelines.errors import DataError
from data_pipelines.records import Latents, Records
from data_pipelines.scans import Example, Scan
from data_pipelines.transforms import Shape

NAMES = ("atlas", "folder", "adni", "brats", "duke", "lidc", "mrnet", "synthetic")
LABEL_NAMES = {"brats": ("grade",), "mrnet": mrnet.LABELS}  # what readers know of whole scans
SERIES = {"brats": brats.SERIES, "mrnet": tuple(mrnet.DIRECTIONS), "duke": ("Dyn_N",)}
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
      classes: how many labels there are, 0 to classes - 1; 0 without.
      latents: which the examples hold in place of volumes; None where they hold volumes.
      latent_range: of latents, the least and the largest value of each channel in training, [c] float32 each.
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
    classes: int = 0
    latents: Latents | None = None
    latent_range: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def content(self) -> str:
        """What a batch holds: "image" or "latents"."""
        return "latents" if self.latents else "image"

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, 1) of volumes, (d, h, w, c) of latents."""
        return self.latents.shape if self.latents else (*self.size, 1)

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


def open_dataset(data: Any, seed: int, latents: Latents | None = None) -> Dataset:
    """Finds and divides the volumes that a config asks for; what is not prepared is decoded and cached first.

    Args:
      data: the `data` part of a config, with attributes name, root, records, cache, size, axes, orientation, split,
        skip_bad_files, label_name, labels; for most spacing, fit, margin, window, window_range, voxel_size; for some
        series; for the atlas, and with atlas_layout=True and no root for all, atlas_count, atlas_seed, lesion_share. With
        records set nothing is read from root.
      seed: of the run; only "synthetic" volumes depend on it.
      latents: which of them records may hold in place of volumes; None: no latents.

    Raises:
      DataError: with one line that says what cannot work.
    """
    check(data)
    if data.name == "synthetic":
        return Dataset(
            "synthetic", (), (), (), tuple(data.size), data.axes, np.eye(4), (0.0, 1.0), 0, 0, {"seed": seed}
        )
    if data.records:
        return _prepared_dataset(data, _open_records(data, latents))

    sources = find_sources(data)
    examples = cache.decode(sources.scans, sources.preprocessing, _cache_folder(data), data.skip_bad_files)
    usable = [scan for scan in sources.scans if scan.name in examples]
    sides = {
        side: tuple(examples[scan.name] for scan in chosen)
        for side, chosen in scans.split(usable, tuple(data.split)).items()
    }
    skipped = len(sources.scans) - len(usable)
    return _dataset(data, sides, skipped, sources.parameters | {"count": len(usable)}, prepared=False)


def _prepared_dataset(data: Any, prepared: Records) -> Dataset:
    examples = prepared.examples(records.folder_of(data.records))
    by_split = {side: [] for side in scans.SPLITS}
    for example, shard in zip(examples, prepared.shards, strict=True):
        by_split[shard.split].append(example)
    sides = {side: tuple(sorted(by_split[side], key=lambda example: example.name)) for side in scans.SPLITS}
    unlabelled = () if _has_labels(data) else ("labels",)
    parameters = {k: v for k, v in prepared.identity.items() if k not in ("name", "size", "axes", *unlabelled)}
    dataset = _dataset(data, sides, prepared.skipped, parameters, prepared=True)
    if not prepared.latents:
        return dataset
    bounds = [(shard.low, shard.high) for shard in prepared.shards if shard.split == "train"]
    low, high = (np.asarray(values, np.float32) for values in zip(*bounds, strict=True))
    return dataclasses.replace(dataset, latents=prepared.latents, latent_range=(low.min(axis=0), high.max(axis=0)))


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
        classes=parameters.get("labels", {}).get("classes", 0),
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
        return _open_records(data, None).examples(records.folder_of(data.records))[:count]
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
    if data.labels:
        found = labels.attach(found, Path(data.labels).expanduser())
    if not _has_labels(data):
        return Sources(tuple(dataclasses.replace(scan, label=None) for scan in found), preprocessing, parameters)
    return Sources(found, preprocessing, parameters | {"labels": _describe_labels(data, found)})


def _has_labels(data: Any) -> bool:
    return bool(data.label_name or data.labels)


def _describe_labels(data: Any, found: tuple[Scan, ...]) -> dict[str, Any]:
    """How many labels there are, and a fingerprint of whose they are."""
    known = sorted((scan.name, scan.label) for scan in found if scan.label is not None)
    if not known:
        raise DataError(f"data.label_name is {data.label_name!r}: none of {len(found)} scans has that label; unset it")
    return {"classes": max(2, 1 + max(label for _, label in known)), "fingerprint": _sha256(f"{known}")}


def settings(data: Any) -> dict[str, Any]:
    """The keys of `data` that decide what the volumes are, whatever the scans, as plain JSON data."""
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = dataclasses.asdict(_preprocessing(data, shape))
    del preprocessing["shape"]  # data.size and data.axes, said otherwise
    made_up = {key: getattr(data, key) for key in MADE_UP_KEYS} if _is_made_up(data) else {}
    own = {"name": data.name, "size": data.size, "axes": data.axes, "split": data.split}
    chosen = {key: getattr(data, key) for key in ("series", "label_name") if getattr(data, key)}
    return json.loads(json.dumps(own | preprocessing | made_up | chosen))


def preprocessing_of(data: Any) -> Preprocessing:
    """From the path of any one scan to its volume, in [-1, 1], as the scans that a config asks for are preprocessed.

    Raises:
      DataError: a key of `data` cannot work; so does what is returned, for a scan that cannot be used.
    """
    check(data)
    return _preprocessing(data, transforms.voxel_shape(tuple(data.size), data.axes))


def intensity_range(data: Any) -> tuple[float, float]:
    """What -1 and 1 stand for in files: the values of a fixed window, or 0 and 1."""
    own = data.name == "lidc" or (data.name == "brats" and data.fit != "brain")  # a window of their own
    by_window = data.name != "synthetic" and not own and data.window == "fixed"
    return tuple(float(value) for value in data.window_range) if by_window else (0.0, 1.0)


def _open_records(data: Any, latents: Latents | None) -> Records:
    prepared, folder = records.open_records(data.records), records.folder_of(data.records)
    records.check_latents(prepared.settings, latents, folder)
    records.check_settings(prepared.settings, settings(data), folder)
    if _has_labels(data) and not prepared.classes:
        raise DataError(f"data.label_name, data.labels: {folder} was prepared without labels; prepare another folder")
    return prepared


def _cache_folder(data: Any) -> Path:
    return Path(data.cache).expanduser() if data.cache else cache.default_folder()


def check(data: Any) -> None:
    """Raises DataError for a key of a config's `data` that cannot work, whatever the scans."""
    choices = {
        "name": NAMES,
        "axes": tuple(transforms.PERMUTATIONS),
        "orientation": ("RAS", "native"),
        "fit": ("crop", "resize", "brain"),
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
    for key in ("spacing", "voxel_size"):
        if (edges := getattr(data, key)) is not None and (len(edges) != 3 or min(edges) <= 0):
            raise DataError(f"data.{key} is {tuple(edges)}; give three edges in millimetres, or None")
    if data.margin < 0:
        raise DataError(f"data.margin is {data.margin}; give 0 voxels or more")
    _check_series_and_labels(data)


def _check_series_and_labels(data: Any) -> None:
    if data.series:
        known = SERIES.get(data.name)
        if not known:
            raise DataError(f"data.series is {data.series!r}, but data.name={data.name} has no choice; leave it unset")
        if data.series not in known and not (data.name == "duke" and duke.NAME.fullmatch(data.series)):
            raise DataError(f"data.series is {data.series!r}; use one of {', '.join(known)}")
    if data.label_name and data.labels:
        raise DataError(f"data.label_name is {data.label_name!r} and data.labels is {data.labels}; use one of the two")
    if data.label_name:
        known = (*LABEL_NAMES.get(data.name, ()), *(("lesion",) if _is_made_up(data) else ()))
        if data.label_name not in known:
            advice = f"use one of {', '.join(known)}" if known else "give labels by a file, data.labels=FILE.csv"
            raise DataError(f"data.label_name is {data.label_name!r} for data.name={data.name}; {advice}")


def _preprocessing(data: Any, shape: Shape) -> Preprocessing:
    if data.name == "brats" and data.fit != "brain":
        return brats.Preprocessing(shape, data.orientation)
    if data.name == "lidc":
        return lidc.Preprocessing(shape, data.orientation, tuple(data.spacing or (1.0, 1.0, 1.0)))
    common = {
        "shape": shape,
        "orientation": data.orientation,
        "spacing": tuple(data.spacing) if data.spacing else None,
        "window": data.window,
        "window_range": tuple(data.window_range),
        "fit": data.fit,
        "margin": data.margin,
    }
    voxel_size = tuple(data.voxel_size) if data.voxel_size else None
    if data.name == "mrnet":
        return mrnet.Preprocessing(**common, voxel_size=voxel_size or mrnet.VOXEL_SIZE, plane=data.series or "sagittal")
    return folder.Preprocessing(**common, voxel_size=voxel_size or folder.VOXEL_SIZE)


def _is_made_up(data: Any) -> bool:
    return data.name == "atlas" or (data.atlas_layout and not data.root)


def _find(data: Any, shape: Shape, cache_folder: Path, atlas_count: int) -> tuple[tuple[Scan, ...], str]:
    """The scans of a dataset, `atlas_count` if they are made up, and a fingerprint of their sources."""
    if _is_made_up(data):
        if atlas_count < 1:
            raise DataError(f"data.atlas_count is {atlas_count}; give the number of subjects to make")
        subjects = Atlas(data.atlas_seed, shape, data.lesion_share)
        # Other runs may have asked for more subjects.
        found = _find_made_up(data, subjects, cache_folder, atlas_count)[:atlas_count]
        if data.label_name == "lesion":
            found = tuple(dataclasses.replace(scan, label=subjects.lesion(n)) for n, scan in enumerate(found))
        # The fingerprint is not of the files, whose compression differs from machine to machine.
        return found, _sha256(f"{subjects} {atlas_count} {atlas_files.VERSION}")
    if not data.root:
        raise DataError(
            f"data.root is not set; give the folder of the {data.name} scans with --config.data.root=FOLDER"
        )
    found = _find_in(data, Path(data.root).expanduser())
    return found, _sha256("\n".join(sorted(f"{scan.name} {_bytes_of(scan.path)}" for scan in found)))


def _find_in(data: Any, root: Path) -> tuple[Scan, ...]:
    """The scans of a folder that is laid out as `data.name` says."""
    match data.name:
        case "adni":
            return adni.find_scans(root)
        case "brats":
            return brats.find_scans(root, data.series or "t1n")
        case "duke":
            return duke.find_scans(root, data.series or "Dyn_0")
        case "lidc":
            return lidc.find_scans(root)
        case "mrnet":
            label_name = data.label_name if data.label_name in mrnet.LABELS else None
            return mrnet.find_scans(root, data.series or "sagittal", label_name)
    found = folder.find_scans(root)
    if not data.voxel_size and any(scan.path.suffix == ".npy" for scan in found):
        print(f"{root}: .npy files do not say how large voxels are, so 1 mm; else set data.voxel_size", file=sys.stderr)
    return found


def _find_made_up(data: Any, subjects: Atlas, cache_folder: Path, count: int) -> tuple[Scan, ...]:
    """The scans of made-up subjects, from files laid out as `data.name` says."""
    match data.name:
        case "adni":
            root = atlas_files.write_as_adni(cache_folder, subjects, count)
        case "brats":
            root = atlas_files.write_as_brats(cache_folder, subjects, count, data.series or "t1n")
        case "duke":
            root = atlas_files.write_as_duke(cache_folder, subjects, count, data.series or "Dyn_0")
        case "lidc":
            root = atlas_files.write_as_lidc(cache_folder, subjects, count)
        case "mrnet":
            root = atlas_files.write_as_mrnet(cache_folder, subjects, count, data.series or "sagittal")
        case _:
            return atlas_files.write_plain(cache_folder, subjects, count)
    return _find_in(data, root)


def _bytes_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
