"""Prepared records: every volume preprocessed once and for all, one TFRecord file each, in a folder that TFDS opens too.

A shard holds a single tf.train.Example, so reading volume i of a shuffled epoch is reading one file, from a disk or a
bucket alike, and a process reads the files of its own rows and no others. Its features, all three of them bytes:
  image   [D, H, W] float16 in [-1, 1], as the network reads it; within 2.5e-4 of the float32 value
  affine  [4, 4] float64
  name    of the scan, in UTF-8
A label volume [D, H, W] uint8 would be a fourth. records.json says the rest: what a config needs to agree with.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from data_pipelines.errors import DataError
from data_pipelines.lazy_tensorflow import import_tensorflow
from data_pipelines.scans import SPLITS, Example
from data_pipelines.transforms import Shape

if TYPE_CHECKING:
    import tensorflow as tf

VERSION = 1  # of this layout
FILE_NAME = "records.json"
FRAME_BYTES = 12  # before the one example of a TFRecord file: its length and a checksum of that
REQUESTS = 32  # to a bucket at a time


@dataclasses.dataclass(frozen=True)
class Shard:
    """One volume of prepared records.

    Attributes:
      name: of the scan.
      split: "train", "validation" or "test".
      affine: [4][4], of the preprocessed volume.
      description: what preprocessing noted.
      bytes: of the file.
    """

    name: str
    split: str
    affine: list[list[float]]
    description: str
    bytes: int


@dataclasses.dataclass(frozen=True)
class Records:
    """What records.json holds.

    Attributes:
      settings: what of a config's `data` the volumes depend on, by key.
      identity: of the dataset, the same as when it is read from the scans themselves.
      skipped: how many scans could not be used.
      shards: in the order in which the scans were found.
    """

    settings: dict[str, Any]
    identity: dict[str, Any]
    skipped: int
    shards: tuple[Shard, ...]

    def paths(self, folder: epath.Path) -> list[epath.Path]:
        """Of the shards, in their order: numbered split by split, and named as TFDS asks."""
        counts = Counter(shard.split for shard in self.shards)
        numbers = {split: itertools.count() for split in counts}
        return [
            folder / f"{self.settings['name']}-{split}.tfrecord-{next(numbers[split]):05d}-of-{counts[split]:05d}"
            for split in (shard.split for shard in self.shards)
        ]

    def examples(self, folder: epath.Path) -> tuple[Example, ...]:
        """In the order of the shards."""
        return tuple(
            Example(shard.name, path, None, np.asarray(shard.affine, np.float64), None, shard.description)
            for shard, path in zip(self.shards, self.paths(folder), strict=True)
        )


def folder_of(records: str) -> epath.Path:
    """The folder that data.records names: on a disk, or gs://BUCKET/FOLDER."""
    return epath.Path(records).expanduser()


def open_records(records: str) -> Records:
    """What a folder of prepared records says of itself; no volume is read.

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
    """Reads records.json; a DataError if it is of another layout."""
    content = read_json(path)
    if content["version"] != VERSION:
        raise DataError(f"{path}: of layout {content['version']}, not {VERSION}; prepare another folder")
    shards = tuple(Shard(**shard) for shard in content["shards"])
    return Records(content["settings"], content["identity"], content["skipped"], shards)


def save(records: Records, path: epath.Path) -> None:
    """Writes records.json, whole or not at all."""
    write_json(path, {"version": VERSION} | dataclasses.asdict(records))


def check_settings(prepared: dict[str, Any], settings: dict[str, Any], folder: epath.Path) -> None:
    """Raises DataError, naming the first key of a config's `data` that is not as it was when the records were made.

    Keys that only one of the two has are of scans that were made up, and say nothing of scans that were found.
    """
    for key, wanted in settings.items():
        if key in prepared and prepared[key] != wanted:
            raise DataError(
                f"data.{key} is {wanted}, but {folder} was prepared with {prepared[key]}; "
                "use that, or prepare another folder"
            )


def write(path: epath.Path, name: str, image: np.ndarray, affine: np.ndarray) -> int:
    """Writes one shard; its bytes depend on nothing but the arguments.

    Args:
      path: an existing file of that name is replaced.
      name: of the scan.
      image: [D, H, W] in [-1, 1].
      affine: [4, 4].

    Returns:
      The size of the file in bytes.
    """
    tf = import_tensorflow()

    def feature(content: bytes) -> tf.train.Feature:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[content]))

    features = {
        "image": feature(np.ascontiguousarray(image, "<f2").tobytes()),
        "affine": feature(np.asarray(affine, "<f8").tobytes()),
        "name": feature(name.encode()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    serialized = example.SerializeToString(deterministic=True)
    with tf.io.TFRecordWriter(os.fspath(path)) as file:
        file.write(serialized)
    return FRAME_BYTES + len(serialized) + 4


def read(path: epath.Path, size: Shape) -> np.ndarray:
    """The [D, H, W] float32 of one shard, without TensorFlow."""
    from tensorflow_datasets.proto import tf_example_pb2  # TFDS's copy, which does not import TensorFlow

    framed = path.read_bytes()
    length = int.from_bytes(framed[:8], "little")
    if len(framed) != FRAME_BYTES + length + 4:
        raise DataError(f"{path}: {len(framed)} bytes of {FRAME_BYTES + length + 4}; copy it again, or prepare it anew")
    example = tf_example_pb2.Example.FromString(framed[FRAME_BYTES : FRAME_BYTES + length])
    image = example.features.feature["image"].bytes_list.value[0]
    return np.frombuffer(image, "<f2").reshape(size).astype(np.float32)


def reader(paths: Sequence[epath.Path], size: Shape) -> Callable[[tf.Tensor], tf.Tensor]:
    """From the number of a shard to its [D, H, W] float32, by TensorFlow's own operations; checksums are compared."""
    tf = import_tensorflow()
    names = tf.constant([os.fspath(path) for path in paths])
    buffer = 2 * int(np.prod(size)) + 2**16  # a whole shard: one request to a bucket

    def read(index: tf.Tensor) -> tf.Tensor:
        serialized = tf.data.TFRecordDataset(names[index], buffer_size=buffer).get_single_element()
        image = tf.io.parse_single_example(serialized, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]
        return tf.cast(tf.reshape(tf.io.decode_raw(image, tf.float16), size), tf.float32)

    return read


def damaged(paths: Sequence[epath.Path], error: Exception) -> DataError:
    """What to say of an error that reading these shards ended in; reads them again, to name the one to blame."""
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

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(shape=size, dtype=np.float16, encoding="bytes"),
            "affine": tfds.features.Tensor(shape=(4, 4), dtype=np.float64, encoding="bytes"),
            "name": tfds.features.Text(),
        }
    )
    splits = []
    for split in SPLITS:
        sizes = [shard.bytes for shard in records.shards if shard.split == split]
        if sizes:
            splits.append(tfds.core.SplitInfo(name=split, shard_lengths=[1] * len(sizes), num_bytes=sum(sizes)))
    tfds.folder_dataset.write_metadata(
        data_dir=folder, features=features, split_infos=splits, version="1.0.0", check_data=False
    )


def sizes_on_disk(paths: Sequence[epath.Path]) -> list[int]:
    """In bytes."""
    with ThreadPoolExecutor(REQUESTS) as pool:
        return list(pool.map(lambda path: path.stat().length, paths))


def read_json(path: epath.Path) -> Any:
    return json.loads(path.read_text())


def write_json(path: epath.Path, content: Any) -> None:
    """Writes beside the final name and renames, so that no reader meets half a file."""
    aside = path.parent / f".{path.name}.aside"
    aside.write_text(json.dumps(content, sort_keys=True) + "\n")
    aside.replace(path)


def one_line(error: Exception) -> str:
    """What an error says, without the graph that TensorFlow's come with."""
    text = re.sub(
        r"\{\{.*?\}\}|\[.*|Error in user-defined .*?Map:", "", str(getattr(error, "message", error)), flags=re.DOTALL
    )
    return " ".join(text.split())[:160] or type(error).__name__
