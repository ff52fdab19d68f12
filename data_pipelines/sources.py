"""Turns the `data` part of a config into the scans it asks for, and says what becomes of each."""

import dataclasses
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from data_pipelines import contents, labels, subjects, transforms
from data_pipelines.cache import default_folder
from data_pipelines.cases import Case
from data_pipelines.decoding import Preprocessing
from data_pipelines.errors import DataError
from data_pipelines.readers import adni, atlas_layouts, brats, duke, folder, lidc, mrnet
from data_pipelines.readers.atlas_layouts import Atlas
from data_pipelines.transforms import Shape

LABEL_NAMES = {"brats": ("grade",), "mrnet": mrnet.LABELS}  # what readers know of whole scans
SERIES = {"brats": brats.SERIES, "mrnet": tuple(mrnet.DIRECTIONS), "duke": ("Dyn_N",)}
MADE_UP_KEYS = ("atlas_count", "atlas_seed", "lesion_share")  # what made-up subjects depend on, besides the size


@dataclasses.dataclass(frozen=True)
class Sources:
    """The scans that a config asks for, and what becomes of them.

    Attributes:
      scans: as they were found.
      preprocessing: from the path of one to its volume.
      parameters: of the dataset they make, the number of usable scans aside.
    """

    scans: tuple[Case, ...]
    preprocessing: Preprocessing
    parameters: dict[str, Any]


def find_sources(data: Any, atlas_count: int | None = None) -> Sources:
    """Finds the scans that a config asks for, or makes them up.

    Args:
      data: as for `open_dataset`.
      atlas_count: how many to make up; as `data` says by default.

    Raises:
      DataError: the scans cannot be found.
    """
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = make_preprocessing(data, shape)
    atlas_count = data.atlas_count if atlas_count is None else atlas_count
    found, fingerprint = _find(data, shape, atlas_count)
    parameters = {
        "preprocessing": dataclasses.asdict(preprocessing),
        "split": tuple(data.split),
        "split_seed": data.split_seed,
        "rules": contents.RULES,
        "fingerprint": fingerprint,
    }
    if data.labels:
        found = labels.attach(found, Path(data.labels).expanduser())
    if not has_labels(data):
        return Sources(tuple(dataclasses.replace(scan, label=None) for scan in found), preprocessing, parameters)
    return Sources(found, preprocessing, parameters | {"labels": _describe_labels(data, found)})


def settings(data: Any) -> dict[str, Any]:
    """The keys of `data` that decide what the volumes are, whatever the scans, as plain JSON data."""
    shape = transforms.voxel_shape(tuple(data.size), data.axes)
    preprocessing = dataclasses.asdict(make_preprocessing(data, shape))
    del preprocessing["shape"]  # data.size and data.axes, said otherwise
    made_up = {key: getattr(data, key) for key in MADE_UP_KEYS} if is_made_up(data) else {}
    own = {key: getattr(data, key) for key in ("name", "size", "axes", "split", "split_seed")}
    chosen = {key: getattr(data, key) for key in ("series", "label_name", "subject_pattern") if getattr(data, key)}
    return json.loads(json.dumps(own | preprocessing | made_up | chosen))


def make_preprocessing(data: Any, shape: Shape) -> Preprocessing:
    """Makes the preprocessing that a config asks for: from the path of a scan to its volume of `shape` voxels."""
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


def has_labels(data: Any) -> bool:
    """Whether a config asks for labels of whole scans."""
    return bool(data.label_name or data.labels)


def is_made_up(data: Any) -> bool:
    """Whether the scans are the atlas's, in whatever layout."""
    return data.name == "atlas" or (data.atlas_layout and not data.root)


def cache_folder(data: Any) -> Path:
    """Returns the folder of preprocessed and made-up volumes."""
    return Path(data.cache).expanduser() if data.cache else default_folder()


def _describe_labels(data: Any, found: tuple[Case, ...]) -> dict[str, Any]:
    """How many labels there are, and a fingerprint of whose they are."""
    known = sorted((scan.name, scan.label) for scan in found if scan.label is not None)
    if not known:
        raise DataError(f"data.label_name is {data.label_name!r}: none of {len(found)} scans has that label; unset it")
    return {"classes": max(2, 1 + max(label for _, label in known)), "fingerprint": _sha256(f"{known}")}


def _find(data: Any, shape: Shape, atlas_count: int) -> tuple[tuple[Case, ...], str]:
    """The scans of a dataset, `atlas_count` if they are made up, and a fingerprint of their sources."""
    if is_made_up(data):
        if atlas_count < 1:
            raise DataError(f"data.atlas_count is {atlas_count}; give the number of subjects to make")
        made_up = Atlas(data.atlas_seed, shape, data.lesion_share)
        # Other runs may have asked for more subjects.
        found = _find_made_up(data, made_up, cache_folder(data), atlas_count)[:atlas_count]
        if data.label_name == "lesion":
            found = tuple(dataclasses.replace(scan, label=made_up.lesion(n)) for n, scan in enumerate(found))
        # The fingerprint is not of the files, whose compression differs from machine to machine.
        return found, _sha256(f"{made_up} {atlas_count} {atlas_layouts.VERSION}")
    if not data.root:
        raise DataError(
            f"data.root is not set; give the folder of the {data.name} scans with --config.data.root=FOLDER"
        )
    root = Path(data.root).expanduser()
    found = _find_in(data, root)
    if data.subject_pattern:
        paths = [scan.path.relative_to(root).as_posix() for scan in found]
        found = subjects.regrouped(found, paths, data.subject_pattern)
    subjects.tell(f"data.root={root}", [(scan.name, scan.subject) for scan in found])
    digests = contents.digests([scan.path for scan in found])
    found = tuple(dataclasses.replace(scan, digest=digest) for scan, digest in zip(found, digests, strict=True))
    return found, contents.fingerprint(found)


def _find_in(data: Any, root: Path) -> tuple[Case, ...]:
    """The scans of a folder that is laid out as `data.name` says."""
    match data.name:
        case "adni":
            return adni.find_cases(root)
        case "brats":
            return brats.find_cases(root, data.series or "t1n")
        case "duke":
            return duke.find_cases(root, data.series or "Dyn_0")
        case "lidc":
            return lidc.find_cases(root)
        case "mrnet":
            label_name = data.label_name if data.label_name in mrnet.LABELS else None
            return mrnet.find_cases(root, data.series or "sagittal", label_name)
    found = folder.find_cases(root)
    if not data.voxel_size and any(scan.path.suffix == ".npy" for scan in found):
        print(f"{root}: .npy files do not say how large voxels are, so 1 mm; else set data.voxel_size", file=sys.stderr)
    return found


def _find_made_up(data: Any, made_up: Atlas, cache: Path, count: int) -> tuple[Case, ...]:
    """The scans of made-up subjects, from files laid out as `data.name` says."""
    match data.name:
        case "adni":
            root = atlas_layouts.write_as_adni(cache, made_up, count)
        case "brats":
            root = atlas_layouts.write_as_brats(cache, made_up, count, data.series or "t1n")
        case "duke":
            root = atlas_layouts.write_as_duke(cache, made_up, count, data.series or "Dyn_0")
        case "lidc":
            root = atlas_layouts.write_as_lidc(cache, made_up, count)
        case "mrnet":
            root = atlas_layouts.write_as_mrnet(cache, made_up, count, data.series or "sagittal")
        case _:
            return atlas_layouts.write_plain(cache, made_up, count)
    return _find_in(data, root)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
