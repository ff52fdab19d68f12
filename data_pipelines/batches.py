"""Batches of decoded volumes, by tf.data on an index dataset: there is no iterator state to save.

Position p of the endless stream of examples is volume shuffle(epoch)[p mod n] with epoch = p div n; batch k takes
positions k * batch_size and on. So batch k is a pure function of (seed, k), and any process finds its rows of it.

The volumes are plain numbers in files, decoded into a cache or prepared as records. As many as fit stay in RAM, where
the operating system keeps what has been read, one copy for all processes, and gives it up when something else needs the
room; so none is held here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines import augmentation as augmenting
from data_pipelines import records, splits, synthetic, transforms
from data_pipelines.augmentation import Augmentation
from data_pipelines.cases import Example
from data_pipelines.datasets import Dataset, first_examples, open_dataset
from data_pipelines.errors import DataError
from data_pipelines.formats import nifti
from data_pipelines.lazy_tensorflow import import_tensorflow
from data_pipelines.preprocessing import LABELS
from data_pipelines.settings import check_seed

if TYPE_CHECKING:
    import tensorflow as tf

__all__ = [
    "Dataset",
    "first_volumes",
    "known",
    "label_maps",
    "open_dataset",
    "train_batches",
    "volume_count",
    "volumes",
]


def train_batches(
    dataset: Dataset,
    seed: int,
    batch_size: int,
    step: int = 0,
    rows: Sequence[int] | None = None,
    flip: bool = False,
    augmentation: Augmentation = augmenting.NOTHING,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches step, step + 1, ... without end; starting late costs nothing.

    Args:
      dataset: whose training examples are shuffled anew each epoch; a batch may reach over several epochs.
      seed: of the shuffles, flips and augmentation, from 0 to 2**32 - 1.
      batch_size: of the global batch.
      step: which batch comes first.
      rows: of the global batch, those of this process, in any order; the others are not read. None: all.
      flip: mirror each volume left to right with probability 1/2; the affine stays.
      augmentation: how much volumes are moved and recoloured at random, after that; synthetic ones are as they are made.

    Yields:
      image: [b, D, H, W, C] float32 in [-1, 1], or in its place latents: [b, d, h, w, c] float32; of a dataset with label
      maps labels: [b, D, H, W] int32; of one with classes class: [b] int32, -1 where it is not known; and of one with numbers
      scalars: [b, K] float32, NaN where one is not known.

    Raises:
      DataError: latents cannot be mirrored or augmented, a record is damaged, or the seed is none.
    """
    check_seed("seed", seed)
    if flip and dataset.latents:
        raise DataError(
            "data.flip is True, but data.records holds latents, which cannot be mirrored; set data.flip=False"
        )
    if dataset.latents:
        augmenting.check_latents(augmentation)
    if dataset.name == "synthetic":
        yield from synthetic.train_batches(dataset.size, seed, batch_size, step, rows)
        return
    tf = import_tensorflow()
    examples = dataset.train
    left_right = tf.constant([_left_right(example, dataset.axes) for example in examples])
    spacing = tf.constant([_voxel_edges(example, dataset.axes) for example in examples], tf.float32)
    paths = [path for example in examples for path in example.images]
    read = _record_reader(paths, dataset) if dataset.prepared else _reader(examples, dataset)
    label_of = tf.constant(_labels(examples), tf.int32)
    scalars_of = tf.constant(_scalars(examples))
    chosen = range(batch_size) if rows is None else rows
    row_of = tf.constant(chosen, tf.int64)

    # TensorFlow's own operations alone: a Python function in here would deadlock the interpreter when it exits.
    @tf.autograph.experimental.do_not_convert
    def element(index: tf.Tensor) -> dict[str, tf.Tensor]:
        p = index // len(chosen) * batch_size + row_of[index % len(chosen)]
        epoch, place = p // len(examples), p % len(examples)
        shuffle_key, key = (tf.stack([tf.constant(seed, tf.int64), x]) for x in (epoch, p))
        example = tf.random.experimental.index_shuffle(place, shuffle_key, tf.constant(len(examples) - 1, tf.int64))
        row = read(example)
        if flip:
            mirror = tf.random.stateless_uniform([], key) < 0.5
            axis = left_right[example, tf.newaxis]
            row = {name: tf.where(mirror, tf.reverse(array, axis), array) for name, array in row.items()}
        row = augmenting.augmented(row, augmentation, key, spacing[example])
        if dataset.scalars:
            row["scalars"] = scalars_of[example]
        return row | {"class": label_of[example]} if dataset.classes else row

    indices = tf.data.Dataset.range(step * len(chosen), np.iinfo(np.int64).max, output_type=tf.int64)
    stream = indices.map(element, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    try:
        yield from stream.batch(len(chosen), drop_remainder=True).prefetch(2).as_numpy_iterator()
    except tf.errors.OpError as error:
        if not dataset.prepared:
            raise
        raise records.damaged(paths, error) from error


def first_volumes(data: Any, count: int, recorded: Mapping[str, Any] | None = None) -> np.ndarray:
    """At most `count` volumes of the dataset that `data` describes, to look at: [n, D, H, W, C] float32 in [-1, 1].

    Args:
      data, count, recorded: as for `first_examples`.

    Raises:
      DataError: the data cannot be found.
    """
    shape = (*data.size, len(data.channels or ()) or 1)
    return _volumes(first_examples(data, count, recorded), shape, data.axes, prepared=bool(data.records))


def volumes(dataset: Dataset, side: str, count: int | None = None, chosen: Sequence[int] | None = None) -> np.ndarray:
    """The first volumes of one side of the split, without TensorFlow.

    Args:
      dataset: any; "synthetic" has 8 volumes a side.
      side: "train", "validation" or "test".
      count: how many at most; None is all.
      chosen: the numbers of those to read among these, in the order wanted. None: all.

    Returns:
      [n, D, H, W, C] float32 in [-1, 1]; n may be 0. Of a dataset of latents those, [n, d, h, w, c].
    """
    if dataset.name == "synthetic":
        seed = int(dataset.parameters["seed"])
        start = 2**40 * splits.SPLITS.index(side)  # far apart, so that the sides share no volume
        numbers = range(volume_count(dataset, side, count)) if chosen is None else chosen
        made = [synthetic.volume(dataset.size, seed, start + i) for i in numbers]
        return np.array(made, np.float32).reshape(-1, *dataset.size, 1)
    examples = _chosen(dataset, side, count, chosen)
    return _volumes(examples, dataset.example_shape, dataset.axes, dataset.prepared, dataset.content)


def label_maps(
    dataset: Dataset, side: str, count: int | None = None, chosen: Sequence[int] | None = None
) -> np.ndarray:
    """The label maps of the volumes that `volumes` gives, of a dataset that has them: [n, D, H, W] int32."""
    examples = _chosen(dataset, side, count, chosen)
    array = np.empty((len(examples), *dataset.size), np.int32)
    for labels, example in zip(array, examples, strict=True):
        if dataset.prepared:
            labels[...] = records.read(example.images[0], dataset.size, LABELS)
        else:
            labels[...] = transforms.to_network(nifti.memory_map(example.labels), dataset.axes)
    return array


def known(
    dataset: Dataset, side: str, count: int | None = None, chosen: Sequence[int] | None = None
) -> dict[str, np.ndarray]:
    """Tells what is known of the volumes that `volumes` gives: "class" and "scalars", as in batches, as far as there are any."""
    examples = _chosen(dataset, side, count, chosen)
    values = {"scalars": _scalars(examples)} if dataset.scalars else {}
    return values | ({"class": np.asarray(_labels(examples), np.int32)} if dataset.classes else {})


def volume_count(dataset: Dataset, side: str, count: int | None = None) -> int:
    """How many volumes `volumes` finds, without reading them."""
    if dataset.name == "synthetic":
        return 8 if count is None else count
    return len(getattr(dataset, side)[:count])


def _chosen(dataset: Dataset, side: str, count: int | None, chosen: Sequence[int] | None) -> Sequence[Example]:
    examples = getattr(dataset, side)[:count]
    return examples if chosen is None else [examples[n] for n in chosen]


def _scalars(examples: Sequence[Example]) -> np.ndarray:
    """[n, K] float32, NaN where a number is not known."""
    return np.asarray([example.scalars for example in examples], np.float32)


def _labels(examples: Sequence[Example]) -> list[int]:
    return [-1 if example.label is None else example.label for example in examples]


def _volumes(
    examples: Sequence[Example], shape: Sequence[int], axes: str, prepared: bool, content: str = "image"
) -> np.ndarray:
    array = np.empty((len(examples), *shape), np.float32)
    for volume, example in zip(array, examples, strict=True):
        if prepared:
            volume[...] = records.read(example.images[0], shape, content)
        else:
            for channel, path in enumerate(example.images):
                volume[..., channel] = transforms.to_network(nifti.memory_map(path), axes)
    return array


def _record_reader(paths: Sequence[Path], dataset: Dataset) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    shapes = {dataset.content: dataset.example_shape} | ({LABELS: dataset.size} if dataset.has_label_maps else {})
    return records.reader(paths, shapes)


def _reader(examples: Sequence[Example], dataset: Dataset) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Makes a function from the number of an example to its arrays, as `records.reader` does for records."""
    tf = import_tensorflow()
    images = tf.constant([[str(path) for path in example.images] for example in examples])
    label_maps = tf.constant([str(example.labels) for example in examples])
    # The first voxel axis runs fastest in a file, so as TensorFlow sees it the volume is [K, J, I].
    stored_shape = transforms.voxel_shape(dataset.size, dataset.axes)[::-1]
    permutation = [2 - axis for axis in transforms.PERMUTATIONS[dataset.axes]]

    def array(path: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        numbers = tf.io.decode_raw(tf.io.read_file(path), dtype)[nifti.HEADER_BYTES // dtype.size :]
        return tf.transpose(tf.reshape(numbers, stored_shape), permutation)

    def read(example: tf.Tensor) -> dict[str, tf.Tensor]:
        channels = [array(images[example, channel], tf.float32) for channel in range(dataset.channels)]
        arrays = {dataset.content: tf.stack(channels, axis=-1)}
        if dataset.has_label_maps:
            arrays[LABELS] = tf.cast(array(label_maps[example], tf.int16), tf.int32)
        return arrays

    return read


def _left_right(example: Example, axes: str) -> int:
    """Returns which of D, H, W runs most nearly along the patient's left-right axis."""
    voxel_axis = int(np.argmax(np.abs(example.affine[0, :3])))
    return transforms.PERMUTATIONS[axes].index(voxel_axis)


def _voxel_edges(example: Example, axes: str) -> np.ndarray:
    """Returns how long a voxel is along D, H and W, in millimetres: [3] float64."""
    return np.linalg.norm(example.affine[:3, :3], axis=0)[list(transforms.PERMUTATIONS[axes])]
