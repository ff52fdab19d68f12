"""Turns the `data` part of a config into examples on disk, ready to be batched."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines import cache, contents, records, splits, subjects
from data_pipelines.cases import Case, Example
from data_pipelines.errors import DataError
from data_pipelines.records import Latents, Records
from data_pipelines.settings import cache_folder, check, check_seed, has_labels, intensity_range, is_made_up, settings
from data_pipelines.sources import find_sources
from data_pipelines.standard_scale import scales_in, standardised
from data_pipelines.survey import rows_of
from data_pipelines.survey.sides import fixed_sides
from data_pipelines.survey.table import write_cases_csv
from data_pipelines.transforms import Shape


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Holds what a run trains on: its examples divided by subject, decoded and on disk.

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
      digests: of what each scan's file holds, by its name, those skipped included; of made-up scans, and of records of
        layout 1, none.
      prepared: the examples are prepared records (records.py), not decoded files (cache.py).
      classes: how many labels there are, 0 to classes - 1; 0 without.
      channels: how many images an example has, of one grid.
      has_label_maps: whether each example has a label map.
      scalars: names of the numbers that examples have.
      latents: which the examples hold in place of volumes; None where they hold volumes.
      latent_ranges: of latents, the least and the largest value of each channel in each training volume, [n, c] float32
        each.
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
    channels: int = 1
    has_label_maps: bool = False
    scalars: tuple[str, ...] = ()
    latents: Latents | None = None
    latent_ranges: tuple[np.ndarray, np.ndarray] | None = None
    digests: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def content(self) -> str:
        """Names what a batch holds: "image" or "latents"."""
        return "latents" if self.latents else "image"

    @property
    def example_shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, C) of volumes, (d, h, w, c) of latents."""
        return self.latents.shape if self.latents else (*self.size, self.channels)

    def identity(self) -> dict[str, Any]:
        """Plain JSON data, equal for two datasets if and only if a model of one may go on training on the other."""
        return json.loads(json.dumps({"name": self.name, "size": self.size, "axes": self.axes, **self.parameters}))


def open_dataset(
    data: Any,
    seed: int,
    latents: Latents | None = None,
    cases_csv: Path | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Dataset:
    """Finds and divides the volumes that a config asks for; what is not prepared is decoded and cached first.

    Args:
      data: the `data` part of a config, with attributes name, root, records, cache, size, axes, orientation, split,
        split_seed, subject_pattern, skip_bad_files, label_name, labels; for most spacing, fit, margin, window,
        window_range, voxel_size; for some series; for the atlas, and with atlas_layout=True and no root for all,
        atlas_count, atlas_seed, lesion_share. With records set nothing is read from root.
      seed: of the run; only "synthetic" volumes depend on it.
      latents: which of them records may hold in place of volumes; None: no latents.
      cases_csv: where to write, before anything is decoded, what was found; nothing is written of scans that were made up.
      recorded: the run's data.json, whose standard scale of intensities is kept; None for a new run.

    Raises:
      DataError: with one line that says what cannot work.
    """
    check(data)
    check_seed("seed", seed)
    check_not_latents(data, latents)
    if data.name == "synthetic":
        return Dataset(
            "synthetic", (), (), (), tuple(data.size), data.axes, np.eye(4), (0.0, 1.0), 0, 0, {"seed": seed}
        )
    if data.records:
        return _prepared_dataset(data, _open_records(data, latents))

    sources = find_sources(data)
    side_of = sides_of_subjects(data, sources.scans)
    if cases_csv and sources.rows:
        write_cases_csv(cases_csv, rows_of.divided(sources.rows, side_of))
    tell_of_empty_sides(data, side_of)
    sources = standardised(data, sources, side_of, recorded)
    examples = cache.decode(sources.scans, sources.preprocessing, cache_folder(data), data.skip_bad_files)
    usable = [scan for scan in sources.scans if scan.name in examples]
    divided = [(side_of[scan.subject], examples[scan.name]) for scan in usable]
    skipped = sources.unreadable + len(sources.scans) - len(usable)
    dataset = _dataset(data, divided, skipped, sources.parameters | {"count": len(usable)}, prepared=False)
    return dataclasses.replace(dataset, digests=contents.digests_by_name(sources.scans))


def _prepared_dataset(data: Any, prepared: Records) -> Dataset:
    examples = prepared.examples(records.folder_of(data.records))
    divided = [(shard.split, example) for shard, example in zip(prepared.shards, examples, strict=True)]
    place = f"data.records={records.folder_of(data.records)}"
    if prepared.version == 1:
        told = "divided as it was by the version that wrote it, and whose a scan is, told from its name"
        print(f"{place}: of an earlier layout: {told}", file=sys.stderr)
    subjects.tell(place, [(example.name, example.subject) for example in examples])
    tell_of_empty_sides(data, {example.subject: side for side, example in divided})
    unlabelled = (*(() if has_labels(data) else ("labels",)), *(() if data.scalars else ("scalars",)))
    parameters = {k: v for k, v in prepared.identity.items() if k not in ("name", "size", "axes", *unlabelled)}
    dataset = _dataset(data, divided, prepared.skipped, parameters, prepared=True)
    dataset = dataclasses.replace(dataset, digests=prepared.scans)
    if not prepared.latents:
        return dataset
    bounds = {shard.name: (shard.low, shard.high) for shard in prepared.shards}
    in_order = [bounds[example.name] for example in dataset.train]
    low, high = (np.asarray(values, np.float32) for values in zip(*in_order, strict=True))
    return dataclasses.replace(dataset, latents=prepared.latents, latent_ranges=(low, high))


def _dataset(
    data: Any, divided: list[tuple[str, Example]], skipped: int, parameters: dict[str, Any], prepared: bool
) -> Dataset:
    """The dataset of examples, each with its side; on every side in the order of their names."""
    ordered = sorted(divided, key=lambda pair: pair[1].name)
    sides = {name: tuple(example for side, example in ordered if side == name) for name in splits.SPLITS}
    if not sides["train"]:
        raise DataError(f"none of the {len(ordered)} usable scans is for training; see data.split and data.split_seed")
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
        channels=len(data.channels or ()) or 1,
        has_label_maps=data.label_map,
        scalars=tuple(data.scalars or ()),
    )


def sides_of_subjects(data: Any, scans: Sequence[Case]) -> dict[str, str]:
    """The side of the split of each subject of these scans, by data.split_table, else by data.split and data.split_seed."""
    fixed = fixed_sides(Path(data.split_table).expanduser()) if data.split_table else {}
    return {
        subject: fixed.get(subject) or splits.side(subject, tuple(data.split), data.split_seed)
        for subject in {scan.subject for scan in scans}
    }


def tell_of_empty_sides(data: Any, side_of: dict[str, str]) -> None:
    """Says on stderr which sides of the split have no subject though they were to have some, and what would give them one.

    Args:
      data: with `split`, `split_seed` and `records`.
      side_of: the side of each subject.

    Raises:
      DataError: none is left for training.
    """
    fractions = tuple(data.split)
    everyone, held = sorted(side_of), set(side_of.values())
    empty = [name for name, share in zip(splits.SPLITS, fractions, strict=True) if share > 0 and name not in held]
    if not empty:
        return
    seed = splits.seed_that_fills(everyone, fractions)
    advice = "take more subjects" if seed is None else f"data.split_seed={seed} leaves some on every side"
    if data.records and not data.root:
        advice = f"prepare another folder; {advice}" if seed is not None else "prepare more subjects"
    s = f"{len(everyone)} subject{'s' * (len(everyone) != 1)}"
    found = f"none of {s} falls to {' or '.join(empty)} with data.split={fractions}, data.split_seed={data.split_seed}"
    if "train" in empty:
        raise DataError(f"{found}: nothing is left to learn from; {advice}, or use a larger first number in data.split")
    what = "val_loss will be null; " if "validation" in empty else ""
    print(f"{found}: {what}{advice}, or use a larger number in data.split", file=sys.stderr)


def check_not_latents(data: Any, latents: Latents | None) -> None:
    """Raises DataError for volumes on a scale of their own that are to be encoded: the encoder has learned others."""
    if latents and data.standardise:
        raise DataError(
            f"data.standardise is {data.standardise!r}, but this run is on latents, whose encoder has a scale of its own; "
            "leave it unset"
        )


def first_examples(data: Any, count: int, recorded: Mapping[str, Any] | None = None) -> tuple[Example, ...]:
    """The first few examples of a dataset, on whichever side of the split; no more is read, or made, than these.

    Args:
      data: as for `open_dataset`; "synthetic" has none.
      count: how many at most.
      recorded: as for `open_dataset`.

    Raises:
      DataError: the data cannot be found.
    """
    check(data)
    if data.name == "synthetic":
        return ()
    if data.records:
        return _open_records(data, None).examples(records.folder_of(data.records))[:count]
    sources = find_sources(data, min(count, data.atlas_count))
    sources = standardised(data, sources, sides_of_subjects(data, sources.scans), recorded)
    examples = cache.decode(sources.scans[:count], sources.preprocessing, cache_folder(data), skip_bad_files=True)
    return tuple(examples.values())


def found_identity(data: Any, recorded: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Tells of `Dataset.identity` what can be said without decoding a scan: not how many are usable, nor anything of labels.

    Made-up subjects are what the keys say they are, so nothing needs to be looked for: {}. A standard scale that is not
    recorded is not looked for either.

    Args:
      data, recorded: as for `open_dataset`.

    Raises:
      DataError: the data cannot be found.
    """
    check(data)
    if data.records:
        return {
            key: value for key, value in _open_records(data, None).identity.items() if key not in ("count", "labels")
        }
    if data.name == "synthetic" or is_made_up(data):
        return {}
    sources = find_sources(data)
    if recorded and scales_in(recorded):
        sources = standardised(data, sources, sides_of_subjects(data, sources.scans), recorded)
    parameters = {key: value for key, value in sources.parameters.items() if key != "labels"}
    return json.loads(json.dumps({"name": data.name, "size": data.size, "axes": data.axes, **parameters}))


def _open_records(data: Any, latents: Latents | None) -> Records:
    prepared, folder = records.open_records(data.records), records.folder_of(data.records)
    records.check_latents(prepared.settings, latents, folder)
    records.check_settings(prepared.settings, settings(data), folder)
    for key, unset in (("channels", []), ("label_map", False)):
        wanted, there = getattr(data, key) or unset, prepared.settings.get(key, unset)
        if there != (list(wanted) if key == "channels" else wanted):
            raise DataError(f"data.{key} is {wanted}, but {folder} was prepared with {there}; prepare another folder")
    names = prepared.identity.get("scalars", {}).get("names", [])
    if data.scalars and list(data.scalars) != list(names):
        raise DataError(
            f"data.scalars is {tuple(data.scalars)}, but {folder} was prepared with {names}; prepare another folder"
        )
    if has_labels(data) and not prepared.classes:
        raise DataError(f"data.label_name, data.labels: {folder} was prepared without labels; prepare another folder")
    return prepared
