"""Prepared records: every volume preprocessed once and for all, one TFRecord file each, in a folder that TFDS opens too.

A shard holds a single tf.train.Example, so reading volume i of a shuffled epoch is reading one file, from a disk or a
bucket alike, and a process reads the files of its own rows and no others. Its features, bytes but for the label:
  image    [D, H, W], or [D, H, W, C] of several channels, float16 in [-1, 1], as the network reads it; within 2.5e-4 of the
           float32 value
  latents  or, in its place, [d, h, w, c] float32, what a trained encoder made of it
  labels   where the dataset has label maps: [D, H, W] int16
  affine   [4, 4] float64
  name     of the scan, in UTF-8
  label    where the dataset has labels: int64, -1 if this scan's is not known
records.json says the rest: what a config needs to agree with.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from google.protobuf.message import DecodeError

from data_pipelines.cases import Example
from data_pipelines.crc32c import crc32c, masked
from data_pipelines.errors import DataError
from data_pipelines.lazy_tensorflow import import_tensorflow
from data_pipelines.preprocessing import LABELS
from data_pipelines.splits import SPLITS
from data_pipelines.subjects import subject_of
from data_pipelines.transforms import Shape

if TYPE_CHECKING:
    import tensorflow as tf

VERSION = 2  # of this layout; 1 was without subjects and digests, and divided otherwise; it is read as it stands
FILE_NAME = "records.json"
FRAME_BYTES = 12  # before the one example of a TFRecord file: its length and a checksum of that
REQUESTS = 32  # to a bucket at a time
CHECKSUM = "crc32c"  # the key of it, in JSON files: of all else there
OPTIONS = ("standardise",)  # of `Records.settings`
COPY = "copy it again, or prepare another folder"
DTYPES = {"image": np.dtype("<f2"), "latents": np.dtype("<f4"), LABELS: np.dtype("<i2")}  # of what a shard may hold


@dataclasses.dataclass(frozen=True)
class Latents:
    """Says which latents records hold.

    Attributes:
      model: plain data that names the encoder and its weights, such as {"fingerprint": ..., "step": ...}; never looked into.
      shape: (d, h, w, c).
    """

    model: dict[str, Any]
    shape: tuple[int, int, int, int]

    def settings(self) -> dict[str, Any]:
        """Returns the fields as plain JSON data."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True)
class Shard:
    """One volume of prepared records.

    Attributes:
      name: of the scan.
      split: "train", "validation" or "test".
      affine: [4][4], of the preprocessed volume.
      description: what preprocessing noted.
      bytes: of the file.
      subject: whose the scan is.
      label: of the scan, if it is known.
      low, high: of latents, the least and the largest value of each channel.
      scalars: numbers known of the scan, in the order of the dataset; None for one that is not.
    """

    name: str
    split: str
    affine: list[list[float]]
    description: str
    bytes: int
    subject: str
    label: int | None = None
    low: list[float] | None = None
    high: list[float] | None = None
    scalars: list[float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Records:
    """Mirrors what records.json holds.

    Attributes:
      settings: what of a config's `data` the volumes depend on, by key.
      identity: of the dataset, the same as when it is read from the scans themselves.
      skipped: how many scans could not be used.
      shards: in the order in which the scans were found.
      scans: the digest of what each scan's file held (contents.py), by name, those skipped included; of made-up scans none.
      version: of the layout.
    """

    settings: dict[str, Any]
    identity: dict[str, Any]
    skipped: int
    shards: tuple[Shard, ...]
    scans: dict[str, str] = dataclasses.field(default_factory=dict)
    version: int = VERSION

    @property
    def latents(self) -> Latents | None:
        """Says which latents the records hold, None if volumes."""
        known = self.settings.get("latents")
        return Latents(known["model"], tuple(known["shape"])) if known else None

    @property
    def classes(self) -> int:
        """How many labels there are; 0 without."""
        return self.identity.get("labels", {}).get("classes", 0)

    def paths(self, folder: epath.Path) -> list[epath.Path]:
        """Names the shards' files, in their order: numbered split by split, as TFDS asks."""
        counts = Counter(shard.split for shard in self.shards)
        numbers = {split: itertools.count() for split in counts}
        return [
            folder / f"{self.settings['name']}-{split}.tfrecord-{next(numbers[split]):05d}-of-{counts[split]:05d}"
            for split in (shard.split for shard in self.shards)
        ]

    def examples(self, folder: epath.Path) -> tuple[Example, ...]:
        """Lists the examples in the order of the shards."""
        return tuple(
            Example(
                name=shard.name,
                subject=shard.subject,
                images=(path,),
                labels=None,
                affine=np.asarray(shard.affine, np.float64),
                description=shard.description,
                label=shard.label,
                scalars=tuple(np.nan if value is None else value for value in shard.scalars or ()),
            )
            for shard, path in zip(self.shards, self.paths(folder), strict=True)
        )


def folder_of(records: str) -> epath.Path:
    """The folder that data.records names: on a disk, or gs://BUCKET/FOLDER."""
    return epath.Path(records).expanduser()


def open_records(records: str) -> Records:
    """Reads what a folder of prepared records says of itself; no volume is read.

    Args:
      records: data.records.

    Raises:
      DataError: it is not there, not finished, of another version or lacks shards.
    """
    folder = folder_of(records)
    try:
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else None
        opened = load(folder / FILE_NAME) if found and FILE_NAME in found else None
    except DataError:
        raise
    except Exception as error:  # every file system has its own kinds
        raise DataError(f"data.records={folder}: cannot be read ({one_line(error)}); check path and access") from error
    if found is None:
        raise DataError(f"data.records={folder}: no such folder; make it with --mode=prepare")
    if opened is None:
        raise DataError(
            f"data.records={folder}: no {FILE_NAME} in it, so it holds no finished records; "
            "run --mode=prepare, which goes on where it was interrupted"
        )
    absent = sorted({path.name for path in opened.paths(folder)} - found)
    if absent:
        raise DataError(
            f"data.records={folder}: {len(absent)} of {len(opened.shards)} shards are missing, {absent[0]} is the first; "
            "copy the folder again, or prepare another"
        )
    return opened


def load(path: epath.Path) -> Records:
    """Reads records.json; in layout 1, whose scan a volume is, is told from its name.

    Raises:
      DataError: it is of a layout that is not known here, or damaged.
    """
    content = json.loads(path.read_text())
    version = content["version"]
    if version not in (1, VERSION):
        raise DataError(f"{path}: of layout {version!s:.20}, not 1 or {VERSION}; prepare another folder")
    content = _checked(path, content)
    shards = tuple(Shard(**({"subject": subject_of(shard["name"])} | shard)) for shard in content["shards"])
    for shard in shards:
        if np.shape(shard.affine) != (4, 4) or shard.split not in SPLITS or not isinstance(shard.name, str):
            raise DataError(f"{path}: damaged (it describes {shard!s:.100}); {COPY}")
    scans = content.get("scans", {})
    return Records(content["settings"], content["identity"], content["skipped"], shards, scans, version)


def save(records: Records, path: epath.Path) -> None:
    """Writes records.json, whole or not at all."""
    write_json(path, dataclasses.asdict(records))


def check_settings(prepared: dict[str, Any], settings: dict[str, Any], folder: epath.Path) -> None:
    """Raises DataError, naming the first key of a config's `data` that is not as it was when the records were made.

    Keys that only one of the two has are of scans that were made up, and say nothing of scans that were found; `OPTIONS` are
    not set where they are missing.
    """
    said = [key for key in settings if key in prepared] + [key for key in OPTIONS if key in settings or key in prepared]
    for key in said:
        if prepared.get(key) != settings.get(key):
            raise DataError(
                f"data.{key} is {settings.get(key)}, but {folder} was prepared with {prepared.get(key)}; "
                "use that, or prepare another folder"
            )


def check_latents(made: dict[str, Any], wanted: Latents | None, folder: epath.Path) -> None:
    """Raises DataError if records of these settings hold latents, but not those that are wanted."""
    there = made.get("latents")
    if there and not wanted:
        raise DataError(f"data.records={folder}: holds latents, no volumes; give another folder, or leave it unset")
    if there and there != wanted.settings():
        raise DataError(
            f"data.records={folder}: holds latents of another model, {there}, not {wanted.settings()}; "
            "prepare another folder"
        )


def write(
    path: epath.Path,
    name: str,
    arrays: Mapping[str, np.ndarray],
    affine: np.ndarray,
    label: int | None = None,
) -> int:
    """Writes one shard; its bytes depend on nothing but the arguments.

    Args:
      path: an existing file of that name is replaced.
      name: of the scan.
      arrays: "image" [D, H, W, C] in [-1, 1], or "latents" [d, h, w, c]; and "labels" [D, H, W], whole numbers, if there are.
      affine: [4, 4].
      label: of a dataset that has labels; -1 if it is not known.

    Returns:
      The size of the file in bytes.
    """
    tf = import_tensorflow()

    def feature(content: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

    features = {
        **{key: feature(np.ascontiguousarray(array, DTYPES[key]).tobytes()) for key, array in arrays.items()},
        "affine": feature(np.asarray(affine, "<f8").tobytes()),
        "name": feature(name.encode()),
    }
    if label is not None:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    example = tf.train.Example(features=tf.train.Features(feature=features))
    serialized = example.SerializeToString(deterministic=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as file:
        file.write(serialized)
    return FRAME_BYTES + len(serialized) + 4


def read(path: epath.Path, shape: Sequence[int], content: str = "image") -> np.ndarray:
    """The array of `shape`, float32 (labels int32), of one shard, without TensorFlow; checksums are compared.

    Raises:
      DataError: the file is not whole, not what was written, or of something else.
    """
    from tensorflow_datasets.proto import tf_example_pb2  # TFDS's copy, which does not import TensorFlow

    framed = path.read_bytes()
    length = int.from_bytes(framed[:8], "little")
    if len(framed) != FRAME_BYTES + length + 4:
        raise DataError(f"{path}: {len(framed)} bytes of {FRAME_BYTES + length + 4}; copy it again, or prepare it anew")
    serialized = framed[FRAME_BYTES:-4]
    for part, checksum in ((framed[:8], framed[8:FRAME_BYTES]), (serialized, framed[-4:])):
        if masked(crc32c(part)) != int.from_bytes(checksum, "little"):
            raise DataError(f"{path}: damaged (its checksum is wrong); copy it again, or prepare another folder")
    try:
        example = tf_example_pb2.Example.FromString(serialized)
        array = example.features.feature[content].bytes_list.value[0]
        return (
            np.frombuffer(array, DTYPES[content]).reshape(shape).astype(np.int32 if content == LABELS else np.float32)
        )
    except (LookupError, ValueError, DecodeError) as error:
        raise DataError(f"{path}: holds no {content} of shape {tuple(shape)}; prepare another folder") from error


def reader(
    paths: Sequence[epath.Path], shapes: Mapping[str, Sequence[int]]
) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a TensorFlow function from a shard's number to its arrays; checksums are compared.

    Args:
      paths: of the shards.
      shapes: of the arrays that are read, by "image" or "latents", float32, and "labels", int32.
    """
    tf = import_tensorflow()
    names = tf.constant([os.fspath(path) for path in paths])
    # A whole shard: one request to a bucket.
    buffer = sum(DTYPES[key].itemsize * int(np.prod(shape)) for key, shape in shapes.items()) + 2**16

    def read(index: tf.Tensor) -> dict[str, tf.Tensor]:
        serialized = tf.data.TFRecordDataset(names[index], buffer_size=buffer).get_single_element()
        found = tf.io.parse_single_example(serialized, {key: tf.io.FixedLenFeature([], tf.string) for key in shapes})
        return {
            key: tf.cast(
                tf.reshape(tf.io.decode_raw(found[key], DTYPES[key].name), shape),
                tf.int32 if key == LABELS else tf.float32,
            )
            for key, shape in shapes.items()
        }

    return read


def damaged(paths: Sequence[epath.Path], error: Exception) -> DataError:
    """Explains the error that reading these shards ended in; reads them again, to name the one to blame."""
    tf = import_tensorflow()
    for path in paths:
        try:
            for _ in tf.data.TFRecordDataset(os.fspath(path)):
                pass
        except tf.errors.OpError as found:
            return DataError(f"{path}: cannot be read ({one_line(found)}); copy it again, or prepare another folder")
    return DataError(f"{paths[0].parent}: could not be read for a while ({one_line(error)}); start again")


def write_tfds_metadata(records: Records, folder: epath.Path, size: Shape) -> None:
    """Writes features.json and dataset_info.json, for `tfds.builder_from_directory(folder)`; the shards must be there."""
    import tensorflow_datasets as tfds

    channels = len(records.settings.get("channels", ())) or 1
    shape = size if channels == 1 else (*size, channels)
    content, shape = ("latents", records.latents.shape) if records.latents else ("image", shape)
    dtype = DTYPES[content].newbyteorder("=").type
    features = {
        content: tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes"),
        "affine": tfds.features.Tensor(shape=(4, 4), dtype=np.float64, encoding="bytes"),
        "name": tfds.features.Text(),
    }
    if records.settings.get("label_map"):
        features[LABELS] = tfds.features.Tensor(shape=size, dtype=np.int16, encoding="bytes")
    if records.classes:
        features["label"] = tfds.features.Scalar(np.int64)
    splits = []
    for split in SPLITS:
        sizes = [shard.bytes for shard in records.shards if shard.split == split]
        if sizes:
            splits.append(tfds.core.SplitInfo(name=split, shard_lengths=[1] * len(sizes), num_bytes=sum(sizes)))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_infos=splits,
        version="1.0.0",
        check_data=False,
    )


def sizes_on_disk(paths: Sequence[epath.Path]) -> list[int]:
    """Returns the size of each file in bytes."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(lambda path: path.stat().length, paths))


def read_json(path: epath.Path) -> Any:
    """Reads what `write_json` wrote.

    Raises:
      DataError: it is not that any more.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({one_line(error)}); {COPY}") from error
    return _checked(path, content)


def write_json(path: epath.Path, content: dict[str, Any]) -> None:
    """Writes beside the final name and renames, so that no reader meets half a file; a checksum goes with it."""
    aside = path.parent / f".{path.name}.aside"
    aside.write_text(json.dumps(content | {CHECKSUM: _checksum(content)}, sort_keys=True) + "\n")
    aside.replace(path)


def _checked(path: epath.Path, content: Any) -> Any:
    """Gives JSON data without the checksum that it may come with, which must be right."""
    if not isinstance(content, dict) or CHECKSUM not in content:
        return content
    told = {key: value for key, value in content.items() if key != CHECKSUM}
    if _checksum(told) != content[CHECKSUM]:
        raise DataError(f"{path}: damaged (its checksum is wrong); {COPY}")
    return told


def _checksum(content: dict[str, Any]) -> int:
    return crc32c(json.dumps(content, sort_keys=True).encode())


def one_line(error: Exception) -> str:
    """Returns an error's message without the graph that TensorFlow's come with."""
    text = re.sub(
        r"\{\{.*?\}\}|\[.*|Error in user-defined .*?Map:", "", str(getattr(error, "message", error)), flags=re.DOTALL
    )
    return " ".join(text.split())[:160] or type(error).__name__
