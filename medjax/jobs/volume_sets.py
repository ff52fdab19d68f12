"""The sets of volumes that are compared: of a run, or of two folders of anybody's NIfTI files."""

import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipelines import nifti, transforms
from data_pipelines.batches import open_dataset, volume_count, volumes
from data_pipelines.errors import DataError
from data_pipelines.folder import find_scans
from data_pipelines.nifti import Volume
from data_pipelines.sources import find_sources
from data_pipelines.transforms import from_network
from medjax.errors import UserError
from medjax.runtime.workdir import read_json

QUANTILES = (0.001, 0.999)  # of a volume's intensities, what its range is taken to be
SHARE_OF_MEMORY = 0.4


@dataclasses.dataclass(frozen=True)
class VolumeSet:
    """Volumes of one kind.

    Attributes:
      volumes: [n, I, J, K, 1] float32 in [-1, 1], voxels in the order of the files.
      names: of each, for people.
      subjects: of each; volumes of one subject are no strangers to each other.
      affine: [4, 4], of the first.
      source: what the volumes are, in words that change when they do.
    """

    volumes: np.ndarray
    names: tuple[str, ...]
    subjects: tuple[str, ...]
    affine: np.ndarray
    source: str

    def __len__(self) -> int:
        return len(self.volumes)

    def take(self, rows: Sequence[int]) -> "VolumeSet":
        """Some of them."""
        rows = [int(row) for row in rows]
        names, subjects = ([each[row] for row in rows] for each in (self.names, self.subjects))
        return dataclasses.replace(
            self,
            volumes=self.volumes[rows],
            names=tuple(names),
            subjects=tuple(subjects),
            source=f"{self.source} of which {rows}",
        )


@dataclasses.dataclass(frozen=True)
class Sets:
    """What an evaluation compares.

    Attributes:
      real: of which no model has seen any, or of unknown history where there are two folders alone.
      generated: what is judged.
      train: what the model has learned from; None where that is not known.
      notes: what a reader of the numbers should know of them.
    """

    real: VolumeSet
    generated: VolumeSet
    train: VolumeSet | None
    notes: tuple[str, ...]


def sets_of_folders(real: pathlib.Path, generated: pathlib.Path, evaluate: ConfigDict) -> Sets:
    """All NIfTI files of two folders, brought to RAS and to one range of intensities; each file is read once.

    Args:
      real, generated: searched to the bottom.
      evaluate: of which `count`, and `intensities`: "shared", both sets by the range of the real ones, or "each", every
        volume by its own.

    Raises:
      UserError, DataError: a folder or a file cannot be used, or the two cannot be compared.
    """
    if evaluate.intensities not in ("shared", "each"):
        raise UserError(f"evaluate.intensities is {evaluate.intensities!r}: use 'shared' or 'each'")
    read = {
        flag: _read_folder(flag, folder, evaluate.count)
        for flag, folder in (("--real", real), ("--generated", generated))
    }
    scans, scanned = read["--real"]
    first = scanned[0].array.shape
    for flag, (found, each) in read.items():
        for scan, volume in zip(found, each, strict=True):
            if volume.array.shape != first:
                raise UserError(
                    f"{flag}: {scan.path} has {volume.array.shape} voxels in RAS order, {scans[0].path} {first}: "
                    "bring all to one shape first"
                )
    ranges = {flag: np.array([np.quantile(v.array, QUANTILES) for v in each]) for flag, (_, each) in read.items()}
    notes = []
    if evaluate.intensities == "shared":
        _check_ranges(ranges["--real"], ranges["--generated"])
        ranges = {
            flag: np.tile(np.median(ranges["--real"], axis=0), (len(each), 1)) for flag, (_, each) in read.items()
        }
    else:
        notes.append("every volume was brought to its own range of intensities: differences in brightness do not show")
    sets = {}
    for flag, (found, each) in read.items():
        arrays = [transforms.window(v, low, high).array for v, (low, high) in zip(each, ranges[flag], strict=True)]
        source = [(str(scan.path.absolute()), *_stamp(scan.path)) for scan in found]
        sets[flag] = VolumeSet(
            np.stack(arrays)[..., None],
            tuple(scan.name for scan in found),
            tuple(scan.subject for scan in found),
            each[0].affine,
            f"{source} in {ranges[flag].tolist()}",
        )
    return Sets(sets["--real"], sets["--generated"], None, tuple(notes))


def sets_of_run(config: ConfigDict, workdir: pathlib.Path) -> Sets:
    """The samples of a run, the volumes it learned from and those that were kept from it (validation and test).

    Raises:
      UserError, DataError: there are no samples, or the data are not at hand.
    """
    trained, known = read_json(workdir / "config.json"), read_json(workdir / "data.json")
    data = ConfigDict(trained["data"])
    for key in ("root", "cache", "records"):
        data[key] = config.data[key] or data.get(key)
    if trained["task"] == "latent_diffusion":
        data.records = config.data.records  # those that it was trained on may hold latents
    dataset = open_dataset(data, trained["seed"])
    # Records do not say whose a volume is; there, as in folders, the first folder of its name is the subject.
    own_files = not data.records and data.name != "synthetic"
    known_subjects = {scan.name: scan.subject for scan in find_sources(data).scans} if own_files else {}
    count, generated = config.evaluate.count, read_samples(workdir, known, config.evaluate.count)
    sides = ("train", "validation", "test")
    check_memory(len(generated) + sum(volume_count(dataset, side, count) for side in sides), data.size)

    def side(*names: str) -> VolumeSet:
        arrays, examples = [], []
        for name in names:
            wanted = None if count is None else max(0, count - len(examples))
            arrays.append(volumes(dataset, name, wanted))
            examples += list(getattr(dataset, name)[:wanted])
        stacked = np.concatenate(arrays)
        # A made-up dataset has no examples with names.
        labels = [example.name for example in examples] or [f"{names[0]} {n}" for n in range(len(stacked))]
        subjects = [known_subjects.get(label, label.partition("/")[0]) for label in labels]
        turned = (
            np.stack([from_network(v[..., 0], dataset.axes) for v in stacked])[..., None] if len(stacked) else stacked
        )
        digest = hashlib.sha256(np.ascontiguousarray(turned)).hexdigest()  # files may change and keep their size
        source = f"{names} of {dataset.identity()}, {len(stacked)}, {digest}"
        return VolumeSet(turned, tuple(labels), tuple(subjects), np.asarray(known["affine"]), source)

    held_out = side("validation", "test")
    if len(held_out) < 2:
        raise UserError(
            f"{workdir}: {len(held_out)} volumes were kept from the model (data.split), two or more are needed to compare with"
        )
    return Sets(held_out, generated, side("train"), ())


def read_samples(workdir: pathlib.Path, known: dict[str, Any], count: int | None) -> VolumeSet:
    """WORKDIR/samples as they are, back in [-1, 1].

    Raises:
      UserError: there are none.
    """
    folder = workdir / "samples"
    paths = sorted(folder.glob("sample_*.nii.gz"))[:count]
    if not paths:
        raise UserError(f"{folder} holds no samples: draw some first, --mode=sample")
    low, high = known["intensity_range"]
    arrays = [
        np.clip((nifti.read(path).array - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32) for path in paths
    ]
    source = f"{[(path.name, *_stamp(path)) for path in paths]} of {workdir.absolute()}"
    names = tuple(path.name.removesuffix(".nii.gz") for path in paths)
    return VolumeSet(np.stack(arrays)[..., None], names, names, np.asarray(known["affine"]), source)


def check_memory(count: int, size: Sequence[int]) -> None:
    """Raises UserError unless so many volumes fit into a part of this computer's memory."""
    needed = 4 * count * math.prod(size)
    there = SHARE_OF_MEMORY * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise UserError(
            f"{count} volumes of {tuple(size)} need {needed / 2**30:.1f} GiB, {there / 2**30:.1f} may be used: "
            "set evaluate.count to compare fewer"
        )


def _read_folder(flag: str, folder: pathlib.Path, count: int | None) -> tuple[list[Any], list[Volume]]:
    try:
        scans = list(find_scans(folder.expanduser()))
    except DataError as error:
        raise UserError(str(error).replace("data.root", flag)) from None
    scans = [scan for scan in scans if nifti.is_nifti(scan.path)][:count]
    if len(scans) < 2:
        raise UserError(
            f"{flag}={folder} holds {len(scans)} NIfTI volume{'s' * (len(scans) != 1)}: two or more are needed"
        )
    check_memory(2 * len(scans), nifti.read(scans[0].path).array.shape)
    return scans, [transforms.to_orientation(nifti.read(scan.path), "RAS") for scan in scans]


def _check_ranges(real: np.ndarray, generated: np.ndarray) -> None:
    """Raises UserError where the generated volumes are plainly of another scale than the real ones."""
    (low, high), (low_g, high_g) = np.median(real, axis=0), np.median(generated, axis=0)
    span = high - low
    if not (0.5 < (high_g - low_g) / span < 2) or abs(low_g - low) > span / 2:
        raise UserError(
            f"intensities differ: real volumes have {low:.4g} to {high:.4g}, generated ones {low_g:.4g} to {high_g:.4g}; "
            "bring them to one scale, or set evaluate.intensities=each to judge every volume in its own range"
        )


def _stamp(path: pathlib.Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
