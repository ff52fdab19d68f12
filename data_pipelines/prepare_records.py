"""Preparing records: by any number of processes that share a folder, to the same bytes whenever one is killed.

While the work is under way, FOLDER/unfinished holds scan-00012.tfrecord and, written after it, scan-00012.json for each
scan that is done. Which split a volume falls into, and of how many, is known only when all are: then the shards get
their names, and records.json, without which nobody reads the folder, comes last.

Records of latents are made alike, by an encoder that the caller hands to `plan`, by name, and to `decode`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from etils import epath

from data_pipelines import contents, records, transforms
from data_pipelines.cases import Case
from data_pipelines.datasets import check_not_latents, sides_of_subjects, tell_of_empty_sides
from data_pipelines.decoding import decode_each, notices_of, refuse_failures, tell_notices
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import cannot_write
from data_pipelines.lazy_tensorflow import import_tensorflow
from data_pipelines.preprocessing import LABELS, Arrays, Preprocessing
from data_pipelines.records import Latents, Records, Shard
from data_pipelines.settings import check, settings
from data_pipelines.sources import find_sources
from data_pipelines.standard_scale import standardised
from data_pipelines.survey import rows_of
from data_pipelines.survey.table import write_cases_csv

LOCK = ".lock"
Encoder = Callable[
    [np.ndarray], np.ndarray
]  # of a volume [D, H, W, C] float32 in [-1, 1] to latents [d, h, w, c] float32


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Describes what is to be prepared, and where.

    Attributes:
      folder: data.records.
      scans: all of the dataset, in the order found.
      preprocessing: from one to its arrays.
      settings: as in `Records`.
      parameters: of the dataset, the number of usable scans aside.
      skip_bad_files: leave out what cannot be used.
      unreadable: how many files were left out before, by their headers.
      side_of: side of the split of each subject.
    """

    folder: epath.Path
    scans: tuple[Case, ...]
    preprocessing: Preprocessing
    settings: dict[str, Any]
    parameters: dict[str, Any]
    skip_bad_files: bool
    unreadable: int = 0
    side_of: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str]:
        """The digests of what the scans' files hold, by name."""
        return contents.digests_by_name(self.scans)

    @property
    def unfinished(self) -> epath.Path:
        return self.folder / "unfinished"

    def shard(self, number: int) -> epath.Path:
        """Returns the path of a scan's volume until its final name is known."""
        return self.unfinished / f"scan-{number:05d}.tfrecord"

    def note(self, number: int) -> epath.Path:
        """Returns the path of the note on what became of a scan, there when it is done."""
        return self.unfinished / f"scan-{number:05d}.json"


def plan(
    data: Any,
    latents: Latents | None = None,
    cases_csv: Path | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Preparation:
    """Finds what a config asks to prepare.

    Args:
      data: the `data` part of a config.
      latents: which are to be kept in place of volumes, and `decode` will be given the encoder for.
      cases_csv: where to write what was found; nothing is written of scans that were made up.
      recorded: data.json of a run that may go on with the records: its standard scale is kept if all its scans are here.

    Raises:
      DataError: it cannot work.
    """
    if data.name == "synthetic":
        raise DataError("data.name is synthetic, which has no files to prepare; train on it as it is")
    if not data.records:
        raise DataError("data.records is not set; give the folder to write with --config.data.records=FOLDER")
    check(data)
    check_not_latents(data, latents)
    import_tensorflow()
    sources = find_sources(data)
    side_of = sides_of_subjects(data, sources.scans)
    if cases_csv and sources.rows:
        write_cases_csv(cases_csv, rows_of.divided(sources.rows, side_of))
    tell_of_empty_sides(data, side_of)
    own = recorded and contents.holds_all(recorded.get("scans"), contents.digests_by_name(sources.scans))
    sources = standardised(data, sources, side_of, recorded if own else None)
    return Preparation(
        folder=records.folder_of(data.records),
        scans=sources.scans,
        preprocessing=sources.preprocessing,
        settings=settings(data) | ({"latents": latents.settings()} if latents else {}),
        parameters=json.loads(json.dumps(sources.parameters)),
        skip_bad_files=data.skip_bad_files,
        unreadable=sources.unreadable,
        side_of=side_of,
    )


def is_finished(preparation: Preparation) -> bool:
    """Whether the folder holds just these records, whole.

    Raises:
      DataError: it holds something else, or shards of another length than they were written with.
    """
    with _explained(preparation.folder):
        if (preparation.folder / records.FILE_NAME).exists():
            made = records.open_records(os.fspath(preparation.folder))
            _check_same(preparation, made.settings, made.identity, made.scans)
            _check_sizes(made, preparation.folder)
            return True
        if (preparation.unfinished / "settings.json").exists():
            begun = records.read_json(preparation.unfinished / "settings.json")
            # Until the last one is decoded, a scan that has changed, repaired perhaps, is only decoded again.
            changeable = not (preparation.unfinished / records.FILE_NAME).exists()
            _check_same(preparation, begun["settings"], begun, begun.get("scans", {}), changeable)
        elif found := _strangers(preparation):
            raise DataError(
                f"data.records={preparation.folder}: holds {found[0]}, which is no record; give a new or empty folder"
            )
        return False


@contextlib.contextmanager
def sole_use(preparation: Preparation) -> Iterator[None]:
    """Makes the folder and holds it; process 0 does, for all of them. In a bucket nothing is held.

    Raises:
      DataError: the folder cannot be made, or another run is preparing it.
    """
    begun = {"settings": preparation.settings, "scans": preparation.digests, **preparation.parameters}
    in_bucket = "://" in os.fspath(preparation.folder)
    lock = contextlib.nullcontext() if in_bucket else filelock.FileLock(preparation.folder / LOCK, timeout=0)
    with _explained(preparation.folder):
        preparation.unfinished.mkdir(parents=True, exist_ok=True)
        try:
            with lock:
                records.write_json(preparation.unfinished / "settings.json", begun)
                yield
        except filelock.Timeout:
            raise DataError(
                f"data.records={preparation.folder}: another run is preparing it; wait for it to end"
            ) from None


def missing(preparation: Preparation) -> list[int]:
    """Numbers of the scans that no process has decoded yet as they are, those that could not be used included."""
    with _explained(preparation.folder):
        there = {path.name for path in preparation.unfinished.iterdir()}
        noted = [n for n in range(len(preparation.scans)) if preparation.note(n).name in there]
        done = {
            n
            for n, note in zip(noted, _read_notes(preparation, noted), strict=True)
            if "error" not in note and note["digest"] == preparation.scans[n].digest
        }
    return [n for n in range(len(preparation.scans)) if n not in done]


def decode(preparation: Preparation, numbers: Sequence[int], encode: Encoder | None = None) -> None:
    """Writes the shards of some scans, in parallel; what is wrong with one is noted, for `finish` to raise.

    Args:
      preparation: of volumes or of latents.
      numbers: of the scans.
      encode: of latents, what makes them; called for one volume at a time, from threads of its own.
    """
    number_of = {preparation.scans[n].name: n for n in numbers}
    content = "latents" if "latents" in preparation.settings else "image"
    turn = threading.Lock()

    def keep(scan: Case, arrays: Arrays) -> None:
        n = number_of[scan.name]
        first = arrays[next(iter(scan.images))]
        turned = {
            name: transforms.to_network(array.array, preparation.settings["axes"]) for name, array in arrays.items()
        }
        affine = np.asarray(first.affine, np.float64).tolist()
        note = {"affine": affine, "description": first.description, "label": scan.label, "digest": scan.digest}
        if scan.scalars:
            note["scalars"] = [None if math.isnan(value) else value for value in scan.scalars.values()]
        note["notices"] = notices_of(arrays)
        image = np.stack([turned[name] for name in scan.images], axis=-1)
        if content == "latents":
            with turn:  # memory for one
                kept = {content: (latents := _checked(preparation, encode(image)))}
            axes = tuple(range(latents.ndim - 1))
            note |= {"low": latents.min(axes).tolist(), "high": latents.max(axes).tolist()}
        else:
            kept = {content: image} | ({LABELS: turned[LABELS]} if LABELS in turned else {})
        label = None if "labels" not in preparation.parameters else -1 if scan.label is None else scan.label
        size = records.write(preparation.shard(n), scan.name, kept, first.affine, label)
        records.write_json(preparation.note(n), note | {"bytes": size})

    with _explained(preparation.folder):
        preparation.unfinished.mkdir(exist_ok=True)  # seen from another host, a shared folder may look older than it is
        failures = decode_each([preparation.scans[n] for n in numbers], preparation.preprocessing, keep)
        for name, error in failures.items():
            records.write_json(preparation.note(number_of[name]), {"error": str(error)})


def finish(preparation: Preparation) -> None:
    """When all is decoded, gives every shard its name and writes what describes them. For one process.

    Raises:
      DataError: scans cannot be used and may not be skipped, or none is left.
    """
    folder, unfinished = preparation.folder, preparation.unfinished
    with _explained(folder):
        errors = [note["error"] for note in _read_notes(preparation) if "error" in note]
        refuse_failures(errors, len(preparation.scans), preparation.skip_bad_files)
        if not (unfinished / records.FILE_NAME).exists():
            records.save(_divided(preparation), unfinished / records.FILE_NAME)
        made = records.load(unfinished / records.FILE_NAME)
        numbers = {scan.name: n for n, scan in enumerate(preparation.scans)}

        def name(shard: Shard, path: epath.Path) -> None:
            if (nameless := preparation.shard(numbers[shard.name])).exists():
                nameless.replace(path)

        with ThreadPoolExecutor(records.REQUESTS) as pool:
            list(pool.map(name, made.shards, made.paths(folder)))
        records.write_tfds_metadata(made, folder, tuple(preparation.settings["size"]))
        records.save(made, folder / records.FILE_NAME)
        unfinished.rmtree()


def _divided(preparation: Preparation) -> Records:
    """Makes the records' description from the notes of all scans."""
    notes = {scan.name: note for scan, note in zip(preparation.scans, _read_notes(preparation), strict=True)}
    for note in notes.values():
        if "error" in note:
            print(f"skipped {note['error']}", file=sys.stderr)
    usable = [scan for scan in preparation.scans if "error" not in notes[scan.name]]
    tell_notices((scan, notes[scan.name].get("notices", {})) for scan in usable)
    chosen = {key: preparation.settings[key] for key in ("name", "size", "axes")}
    return Records(
        settings=preparation.settings,
        identity=chosen | preparation.parameters | {"count": len(usable)},
        skipped=preparation.unreadable + len(preparation.scans) - len(usable),
        shards=tuple(
            Shard(
                name=scan.name,
                split=preparation.side_of[scan.subject],
                subject=scan.subject,
                **{key: value for key, value in notes[scan.name].items() if key not in ("digest", "notices")},
            )
            for scan in usable
        ),
        scans=preparation.digests,
    )


def _read_notes(preparation: Preparation, numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Reads the notes, of all scans by default."""
    numbers = range(len(preparation.scans)) if numbers is None else numbers
    with ThreadPoolExecutor(records.REQUESTS) as pool:
        return list(pool.map(lambda n: records.read_json(preparation.note(n)), numbers))


def _checked(preparation: Preparation, latents: np.ndarray) -> np.ndarray:
    """Latents as they are kept, if they are such as were planned."""
    latents = np.asarray(latents, np.float32)
    planned = tuple(preparation.settings["latents"]["shape"])
    if latents.shape != planned or not np.isfinite(latents).all():
        raise ValueError(f"the encoder gave latents of shape {latents.shape}, finite or not, for {planned}")
    return latents


def _check_same(
    preparation: Preparation,
    made_with: dict[str, Any],
    identity: dict[str, Any],
    digests: dict[str, str],
    changeable: bool = False,
) -> None:
    """Raises DataError, naming the key, unless a folder was begun or finished with just these settings and scans.

    Args:
      made_with: its settings.
      identity: of its dataset.
      digests: of its scans, by name, as far as they are known.
      changeable: whether scans may hold something else now, as long as they are those of the same names.
    """
    folder = preparation.folder
    planned = preparation.settings.get("latents")
    records.check_latents(made_with, Latents(**planned) if planned else None, folder)
    if planned and "latents" not in made_with:
        raise DataError(f"data.records={folder}: holds volumes, no latents; give another folder for those")
    records.check_settings(made_with, preparation.settings, folder)
    _check_scales(folder, identity, preparation.parameters)
    if identity.get("labels") != preparation.parameters.get("labels"):
        raise DataError(
            f"data.label_name, data.labels: not the labels that {folder} was prepared with; give another data.records"
        )
    if identity.get("rules", 1) != preparation.parameters["rules"]:
        raise DataError(
            f"data.records={folder}: prepared by a version that divided subjects by other rules; train on it as it is if it "
            "is finished, without --mode=prepare, or give another data.records"
        )
    if changeable and digests and digests.keys() == preparation.digests.keys():
        return
    if identity["fingerprint"] != preparation.parameters["fingerprint"]:
        changed = contents.changed_scan(digests, preparation.digests) or "whose scans they are differs"
        raise DataError(
            f"data.root: not the scans that {folder} was prepared from ({changed}); "
            "give another data.records, or train on what is there"
        )


def _check_scales(folder: epath.Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raises DataError if a folder was begun with intensities on another standard scale."""
    if there.get("preprocessing", {}).get("scales") != here["preprocessing"].get("scales"):
        raise DataError(
            f"data.standardise: {folder} was prepared on another scale of intensities, that of another run or of other "
            "training scans; give another data.records, or train on what is there"
        )


def _strangers(preparation: Preparation) -> list[str]:
    """Lists what a folder holds that was never begun; one that was killed at its very beginning counts as empty."""
    places = [place for place in (preparation.folder, preparation.unfinished) if place.is_dir()]
    paths = [path for place in places for path in place.iterdir() if path != preparation.unfinished]
    return sorted(path.name for path in paths if not path.name.startswith("."))


def _check_sizes(made: Records, folder: epath.Path) -> None:
    paths = made.paths(folder)
    for path, shard, size in zip(paths, made.shards, records.sizes_on_disk(paths), strict=True):
        if size != shard.bytes:
            raise DataError(f"{path}: {size} bytes of {shard.bytes}; prepare another folder")


@contextlib.contextmanager
def _explained(folder: epath.Path) -> Iterator[None]:
    """Turns what a disk or a bucket raises into one line."""
    tf = import_tensorflow()
    try:
        yield
    except OSError as error:
        raise cannot_write(folder, error) from error
    except tf.errors.OpError as error:
        reason = records.one_line(error)
        raise DataError(
            f"data.records={folder}: cannot be written ({reason}); see to that, then start again"
        ) from error
