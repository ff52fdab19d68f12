"""Reads the sets of volumes that are compared: of a run, or of two folders of anybody's NIfTI files."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_pipelines import contents, transforms
from data_pipelines.batches import Dataset, open_dataset, volume_count, volumes
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.readers.folder import find_cases
from data_pipelines.transforms import from_network, voxel_shape
from medjax.errors import UserError
from medjax.evaluation.volume_set import VolumeSet, check_memory, volume_set
from medjax.runtime.workdir import as_json, first_difference, read_config, read_json

QUANTILES = (0.001, 0.999)  # of a volume's intensities, what its range is taken to be
EVERYTHING = 2**62  # volumes


@dataclasses.dataclass(frozen=True)
class Sets:
    """Holds the sets that an evaluation compares.

    Attributes:
      real: of which no model has seen any, or of unknown history where there are two folders alone.
      generated: what is judged.
      train: what the model has learned from, all of it, none of it to be compared; None where that is not known.
      notes: what a reader of the numbers should know of them.
    """

    real: VolumeSet
    generated: VolumeSet
    train: VolumeSet | None
    notes: tuple[str, ...]


def sets_of_folders(real: pathlib.Path, generated: pathlib.Path, evaluate: ConfigDict) -> Sets:
    """Reads all NIfTI files of two folders, brought to RAS and to one range of intensities.

    Every file is read twice, first for its range.

    Args:
      real, generated: searched to the bottom.
      evaluate: of which `count`, and `intensities`: "shared", both sets by the range of the real ones, or "each", every
        volume by its own.

    Raises:
      UserError, DataError: a folder or a file cannot be used, or the two cannot be compared.
    """
    if evaluate.intensities not in ("shared", "each"):
        raise UserError(f"evaluate.intensities is {evaluate.intensities!r}: use 'shared' or 'each'")
    kinds = {"real": ("--real", real), "generated": ("--generated", generated)}
    scans = {kind: _scans_in(flag, folder) for kind, (flag, folder) in kinds.items()}
    first = transforms.to_orientation(nifti.read_unchecked(scans["real"][0].path), "RAS")
    count = evaluate.count or EVERYTHING
    counts = [len(found) for found in scans.values()]
    check_memory(sum(min(n, count) for n in counts), sum(counts), counts[0], first.array.shape)

    def read(kind: str, row: int) -> nifti.Volume:
        # A collapsed model draws one value everywhere, which is to be reported; a real scan of one value is damaged.
        path = scans[kind][row].path
        volume = transforms.to_orientation((nifti.read if kind == "real" else nifti.read_unchecked)(path), "RAS")
        if volume.array.shape != first.array.shape:
            raise UserError(
                f"{kinds[kind][0]}: {path} has {volume.array.shape} voxels in RAS order, {scans['real'][0].path} "
                f"{first.array.shape}: bring all to one shape first"
            )
        return volume

    ranges = {
        kind: np.array([np.quantile(read(kind, row).array, QUANTILES) for row in range(len(found))])
        for kind, found in scans.items()
    }
    notes = []
    if evaluate.intensities == "shared":
        _check_ranges(ranges["real"], ranges["generated"])
        shared = np.median(ranges["real"], axis=0)
        ranges = {kind: np.tile(shared, (len(found), 1)) for kind, found in scans.items()}
    else:
        notes.append("every volume was brought to its own range of intensities: differences in brightness do not show")

    def in_range(kind: str, row: int) -> np.ndarray:
        low, high = ranges[kind][row]
        return transforms.window(read(kind, row), low, high if high > low else low + 1).array

    sets = {
        kind: volume_set(
            kind,
            [scan.name for scan in found],
            [scan.subject for scan in found],
            first.array.shape,
            first.affine,
            lambda row, kind=kind: in_range(kind, row),
            count,
        )
        for kind, found in scans.items()
    }
    return Sets(**sets, train=None, notes=tuple(notes))


def sets_of_run(config: ConfigDict, workdir: pathlib.Path) -> Sets:
    """Reads the samples of a run, the volumes it learned from and those that were kept from it (validation and test).

    Raises:
      UserError, DataError: there are no samples, or the data are not at hand, or others than the run has learned from.
    """
    like = {key: config.to_dict()[key] for key in ("task", "seed", "data")}
    trained, known = read_config(workdir / "config.json", like), read_json(workdir / "data.json")
    data = ConfigDict(trained["data"])
    for key in config.data:  # such as an earlier version did not know
        if key not in data:
            data[key] = config.data[key]
    for key in ("root", "cache", "records"):
        data[key] = config.data[key] or data.get(key)
    if "latents" in trained:
        data.records = config.data.records  # those that it was trained on may hold latents
    dataset = open_dataset(data, trained["seed"], recorded=known)
    notes = check_same_data(workdir, known, dataset)
    paths = sample_paths(workdir)
    count = config.evaluate.count or EVERYTHING
    held_out = sum(volume_count(dataset, side) for side in ("validation", "test"))
    if held_out < 2:
        raise UserError(
            f"{workdir}: {held_out} volumes were kept from the model (data.split), two or more are needed to compare with"
        )
    n_train, shape = volume_count(dataset, "train"), voxel_shape(dataset.size, dataset.axes)
    compared = min(len(paths), count) + min(held_out, count)
    check_memory(compared, len(paths) + held_out + n_train, n_train, shape)
    affine = np.asarray(known["affine"])

    def of_sides(kind: str, sides: Sequence[str], compared: int) -> VolumeSet:
        places = [(side, row) for side in sides for row in range(volume_count(dataset, side))]
        examples = [each for side in sides for each in getattr(dataset, side)]
        # A made-up dataset has no examples with names.
        names = [each.name for each in examples] or [f"{side} {n}" for side, n in places]

        def load(row: int) -> np.ndarray:
            side, n = places[row]
            return from_network(volumes(dataset, side, chosen=[n])[0, ..., 0], dataset.axes)

        whose = [each.subject for each in examples] or names
        return volume_set(kind, names, whose, shape, affine, load, compared)

    return Sets(
        real=of_sides("held-out", ("validation", "test"), count),
        generated=read_samples(paths, known, shape, count),
        train=of_sides("training", ("train",), 0),
        notes=notes,
    )


def check_same_data(workdir: pathlib.Path, known: dict[str, Any], dataset: Dataset) -> tuple[str, ...]:
    """Makes sure that these are the data that the run has learned from, and returns what is to be noted of it.

    Others have other subjects on either side of the split: those it has learned from would be taken for new ones.

    Raises:
      UserError: they are not.
    """
    if known.get("identity") is None:
        return (
            "which volumes this model has learned from is not recorded: that they are those at hand is taken on trust",
        )
    here = as_json(dataset.identity())
    in_words = contents.difference(known, {"identity": here, "scans": dataset.digests})
    difference = in_words or first_difference(known["identity"], here, "data")
    if difference:
        raise UserError(
            f"{workdir} has learned from other data than these: {difference}; give its own (data.root or data.records), or "
            "compare two folders, --real and --generated"
        )
    return ()


def sample_paths(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Finds the files of WORKDIR/samples.

    Raises:
      UserError: there are none.
    """
    paths = sorted((workdir / "samples").glob("sample_*.nii.gz"))
    if not paths:
        raise UserError(f"{workdir / 'samples'} holds no samples: draw some first, --mode=sample")
    return paths


def read_samples(
    paths: Sequence[pathlib.Path], known: dict[str, Any], shape: Sequence[int], compared: int
) -> VolumeSet:
    """Reads samples as they are, back in [-1, 1].

    Args:
      paths: of the files.
      known: the run's data.json.
      shape: (I, J, K) of each.
      compared: how many to keep in memory.
    """
    low, high = known["intensity_range"]

    def load(row: int) -> np.ndarray:
        array = nifti.read_unchecked(paths[row]).array
        if array.shape != tuple(shape):
            raise UserError(f"{paths[row]} has {array.shape} voxels, this run draws {tuple(shape)}: take it away")
        return np.clip((array - low) / (high - low) * 2 - 1, -1, 1).astype(np.float32)

    names = [path.name.removesuffix(".nii.gz") for path in paths]
    return volume_set("generated", names, names, shape, np.asarray(known["affine"]), load, compared)


def _scans_in(flag: str, folder: pathlib.Path) -> list[Case]:
    try:
        scans = list(find_cases(folder.expanduser()))
    except DataError as error:
        raise UserError(str(error).replace("data.root", flag)) from None
    scans = [scan for scan in scans if nifti.is_nifti(scan.path)]
    if len(scans) < 2:
        raise UserError(
            f"{flag}={folder} holds {len(scans)} NIfTI volume{'s' * (len(scans) != 1)}: two or more are needed"
        )
    return scans


def _check_ranges(real: np.ndarray, generated: np.ndarray) -> None:
    """Raises UserError where the generated volumes are plainly of another scale than the real ones.

    Volumes of one value tell nothing of their scale, nor do those with NaN.
    """
    generated = generated[generated[:, 1] > generated[:, 0]]
    if not len(generated):
        return
    (low, high), (low_g, high_g) = np.median(real, axis=0), np.median(generated, axis=0)
    span = high - low
    if not (0.5 < (high_g - low_g) / span < 2) or abs(low_g - low) > span / 2:
        raise UserError(
            f"intensities differ: real volumes have {low:.4g} to {high:.4g}, generated ones {low_g:.4g} to {high_g:.4g}; "
            "bring them to one scale, or set evaluate.intensities=each to judge every volume in its own range"
        )
