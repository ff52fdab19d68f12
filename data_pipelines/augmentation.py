"""Augments training volumes: small turns, sizes and shifts, other contrasts and noise, all at random and none with a state.

Each draw is a function of one key, which batches.py makes of the seed and of the position in the endless stream, and of
what it is for. So a batch is the same wherever a run starts or which process reads it, and switching one kind of
augmentation on leaves the draws of the others as they were.

All that is in here is TensorFlow's own operations, as parts of a tf.data graph.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_pipelines.errors import DataError
from data_pipelines.lazy_tensorflow import import_tensorflow
from data_pipelines.preprocessing import LABELS

if TYPE_CHECKING:
    import tensorflow as tf

OUTSIDE = -1.0  # of images, beyond their field of view; of label maps it is 0

# The largest amounts that make sense. Two-pass resampling loses detail as the cosine of the angle: an eighth at 30 degrees.
LARGEST = {"rotate": 30.0, "scale": 0.5, "shift": 0.5, "gamma": 1.0, "brightness": 0.5, "noise": 0.5}

# What a key is drawn from besides its position; numbers that are in use stay, or the draws of a run change.
AXIS, ANGLE, FACTOR, SHIFT, EXPONENT, GAIN, DEVIATION, NOISE = range(1, 9)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Says how much volumes are changed at most; 0 leaves a kind of change out.

    Attributes:
      rotate: angle about the volume's centre, around an axis of any direction, degrees.
      scale: share by which the volume grows, or by which what it was exceeds what it becomes.
      shift: way along each axis, as a share of the edge.
      gamma: |log| of the exponent of intensities between black (-1), which stays, and white (1), which stays.
      brightness: share by which intensities above black grow or shrink; beyond white they are cut off.
      noise: standard deviation of the noise of a volume whose range is [-1, 1].
    """

    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    gamma: float = 0.0
    brightness: float = 0.0
    noise: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether the geometry changes."""
        return bool(self.rotate or self.scale or self.shift)

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names what is not 0."""
        return tuple(key for key, value in dataclasses.asdict(self).items() if value)


NOTHING = Augmentation()


def augmentation_of(data: Any) -> Augmentation:
    """Reads the amounts from the `data` part of a config."""
    return Augmentation(**{key: float(getattr(data, key)) for key in LARGEST})


def check_amounts(data: Any) -> None:
    """Raises DataError for an amount of augmentation that is negative, no number or absurdly large."""
    for key, largest in LARGEST.items():
        if not 0 <= (value := getattr(data, key)) <= largest:
            raise DataError(f"data.{key} is {value:g}; give a number from 0, which is none, to {largest:g}")


def check_latents(augmentation: Augmentation) -> None:
    """Raises DataError if anything is asked for: latents stand for whole volumes and cannot be changed like these."""
    if keys := augmentation.chosen:
        given = ", ".join(f"data.{key} is {getattr(augmentation, key):g}" for key in keys)
        advice = ", ".join(f"data.{key}=0.0" for key in keys)
        raise DataError(f"{given}, but data.records holds latents, which cannot be augmented; set {advice}")


def augmented(
    arrays: Mapping[str, tf.Tensor], augmentation: Augmentation, key: tf.Tensor, spacing: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Changes all arrays of one example alike: geometry that of all, intensities those of each image channel.

    Args:
      arrays: image: [D, H, W, C] float32 in [-1, 1]; if there is a label map labels: [D, H, W] int32.
      augmentation: the largest amounts.
      key: [2] int64, the seed and the position in the stream.
      spacing: [3] float32, lengths of a voxel along D, H, W: solids stay in shape where voxels are not cubes.

    Returns:
      Arrays of the same names, shapes and ranges; labels are among those that were there, and 0.
    """
    tf = import_tensorflow()
    if not augmentation.chosen:
        return dict(arrays)
    arrays = dict(arrays)
    image = arrays["image"]
    drawn = draws(augmentation, key, image.shape[-1])
    if augmentation.moves:
        matrix, offset = motion(drawn, tuple(image.shape[:3]), spacing)
        image = moved(image, matrix, offset)
        if LABELS in arrays:
            arrays[LABELS] = moved_labels(arrays[LABELS], matrix, offset)
    image = recoloured(image, augmentation, drawn)
    if augmentation.noise:
        image += drawn["deviation"] * tf.random.stateless_normal(image.shape, _key(key, NOISE))
    return arrays | {"image": tf.clip_by_value(image, -1.0, 1.0)}


def draws(augmentation: Augmentation, key: tf.Tensor, channels: int) -> dict[str, tf.Tensor]:
    """Draws the amounts of one example.

    Args:
      augmentation: the largest amounts.
      key: [2] int64, the seed and the position in the stream.
      channels: of the image.

    Returns:
      axis: [3], of length 1 and uniform direction; angle: [], radians; factor: [], of lengths; shift: [3], shares of the
      edges; exponent, gain and deviation: [channels]. All float32. Angle, shift, gain - 1 and the logarithms of factor
      and exponent are uniform between minus the largest and the largest; deviation from 0.
    """
    tf = import_tensorflow()

    def uniform(purpose: int, largest: float, shape: tuple[int, ...] = ()) -> tf.Tensor:
        return tf.random.stateless_uniform(shape, _key(key, purpose), -largest, largest)

    direction = tf.random.stateless_normal([3], _key(key, AXIS))
    return {
        "axis": direction / tf.norm(direction),
        "angle": uniform(ANGLE, math.radians(augmentation.rotate)),
        "factor": tf.exp(uniform(FACTOR, math.log1p(augmentation.scale))),
        "shift": uniform(SHIFT, augmentation.shift, (3,)),
        "exponent": tf.exp(uniform(EXPONENT, augmentation.gamma, (channels,))),
        "gain": 1.0 + uniform(GAIN, augmentation.brightness, (channels,)),
        "deviation": tf.abs(uniform(DEVIATION, augmentation.noise, (channels,))),
    }


def motion(drawn: Mapping[str, tf.Tensor], size: tuple[int, int, int], spacing: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Makes the affine map from voxels of the result to those of the source: a similarity about the centre.

    Args:
      drawn: axis, angle, factor and shift of `draws`; the volume turns by the right hand's rule in (D, H, W).
      size: (D, H, W) voxels.
      spacing: [3], lengths of a voxel.

    Returns:
      matrix [3, 3] and offset [3]: voxel y of the result shows position matrix @ y + offset of the source.
    """
    tf = import_tensorflow()
    edges = tf.constant(size, tf.float32)
    x, y, z = tf.unstack(drawn["axis"])
    o = tf.zeros([])
    cross = tf.stack([tf.stack([o, -z, y]), tf.stack([z, o, -x]), tf.stack([-y, x, o])])
    # Rodrigues' formula for the turn back.
    back = tf.eye(3) - tf.sin(drawn["angle"]) * cross + (1.0 - tf.cos(drawn["angle"])) * (cross @ cross)
    matrix = back * spacing[tf.newaxis] / spacing[:, tf.newaxis] / drawn["factor"]
    centre = (edges - 1.0) / 2.0
    return matrix, centre - tf.linalg.matvec(matrix, centre + drawn["shift"] * edges)


def moved(image: tf.Tensor, matrix: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Interpolates an image linearly, sharpened before: first within its planes of H and W, then along D.

    Two passes cost a third of a gather of eight neighbours; each axis is interpolated once, as there (Catmull and Smith 1980,
    "3-D transformations of images in scanline order"). The plane in between is that of the result, so nothing is cut off.

    Args:
      image: [D, H, W, C] float32.
      matrix: [3, 3], with a first diagonal element well above 0.
      offset: [3]; both as of `motion`.

    Returns:
      The same shape, -1 outside of the field of view; a little beyond [-1, 1] beside sharp edges.
    """
    tf = import_tensorflow()
    depth, height, width, _ = image.shape
    image = _sharpened(image)
    # Voxel (d', h', w') of the result shows the source's plane d. Solved for d', the positions in that plane follow.
    slope = matrix[1:, 0] / matrix[0, 0]
    in_plane = matrix[1:, 1:] - slope[:, tf.newaxis] * matrix[tf.newaxis, 0, 1:]
    planes = tf.range(depth, dtype=tf.float32)
    starts = offset[1:] + slope * (planes[:, tf.newaxis] - offset[0])
    image = _planes_moved(image, in_plane, starts, (height, width))
    # Then planes of D and W: only D is interpolated, as W comes from the very voxel.
    rows = tf.range(height, dtype=tf.float32)
    starts = tf.stack([offset[0] + matrix[0, 1] * rows, tf.zeros_like(rows)], axis=1)
    along = tf.stack([tf.stack([matrix[0, 0], matrix[0, 2]]), tf.constant([0.0, 1.0])])
    image = _planes_moved(tf.transpose(image, [1, 0, 2, 3]), along, starts, (depth, width))
    return tf.transpose(image, [1, 0, 2, 3])


def moved_labels(labels: tf.Tensor, matrix: tf.Tensor, offset: tf.Tensor) -> tf.Tensor:
    """Takes the label of the nearest voxel, 0 outside of the field of view: [D, H, W] to the same."""
    tf = import_tensorflow()
    inside, place = True, 0
    for axis, edge in enumerate(labels.shape):
        position = offset[axis]
        for other, length in enumerate(labels.shape):
            along = [length if number == other else 1 for number in range(3)]
            position += matrix[axis, other] * tf.reshape(tf.range(length, dtype=tf.float32), along)
        nearest = tf.cast(tf.round(position), tf.int32)
        inside &= (nearest >= 0) & (nearest < edge)
        place = place * edge + tf.clip_by_value(nearest, 0, edge - 1)
    return tf.where(inside, tf.gather(tf.reshape(labels, [-1]), place), tf.zeros([], labels.dtype))


def recoloured(image: tf.Tensor, augmentation: Augmentation, drawn: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Changes contrast and brightness of each channel of an image in [-1, 1]; black, the air, stays black.

    Args:
      image: [D, H, W, C] float32.
      augmentation: which of the two are asked for.
      drawn: exponent and gain, [C] each.

    Returns:
      The same shape, from -1 up, and above 1 where a gain has it so.
    """
    tf = import_tensorflow()
    if augmentation.gamma:
        # By a logarithm, which is four times as fast as a power; the least number has none of its own, but comes to 0.
        share = tf.clip_by_value((image + 1.0) / 2.0, 1e-30, 1.0)
        image = 2.0 * tf.exp(drawn["exponent"] * tf.math.log(share)) - 1.0
    if augmentation.brightness:
        image = (image + 1.0) * drawn["gain"] - 1.0
    return image


def _sharpened(image: tf.Tensor) -> tf.Tensor:
    """Undoes beforehand what linear interpolation blurs on average, or a model would learn that scans have less detail.

    Between two voxels, at the fraction f of the way, it adds f (1 - f) / 2 of the second difference; the mean over f is 1 / 12.
    """
    tf = import_tensorflow()
    depth, height, width, _ = image.shape
    padded = tf.pad(image, [[1, 1], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    neighbours = tf.zeros([])
    for start in (0, 2):
        neighbours += padded[start : start + depth, 1:-1, 1:-1]
        neighbours += padded[1:-1, start : start + height, 1:-1]
        neighbours += padded[1:-1, 1:-1, start : start + width]
    return image + (6.0 * image - neighbours) / 12.0


def _planes_moved(planes: tf.Tensor, matrix: tf.Tensor, starts: tf.Tensor, shape: tuple[int, int]) -> tf.Tensor:
    """Interpolates [n, Y, X, C] bilinearly: (y, x) of plane i shows matrix @ (y, x) + starts[i] of it; -1 outside."""
    tf = import_tensorflow()
    yy, yx, xy, xx = tf.unstack(tf.reshape(matrix, [4]))
    y, x = tf.unstack(starts, axis=1)
    one, zero = tf.ones_like(y), tf.zeros_like(y)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=planes,
        transforms=tf.stack([xx * one, xy * one, x, yx * one, yy * one, y, zero, zero], axis=1),
        output_shape=shape,
        fill_value=OUTSIDE,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def _key(key: tf.Tensor, purpose: int) -> tf.Tensor:
    """Derives the key of one purpose."""
    tf = import_tensorflow()
    return tf.random.experimental.stateless_fold_in(key, tf.constant(purpose, tf.int64))
