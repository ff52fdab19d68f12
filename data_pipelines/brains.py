"""Finds the brain in a scan whose skull is stripped, whether its background is 0, noise, or the middle of standardised values."""

import dataclasses

import numpy as np
from scipy import ndimage

ALIKE = 0.02  # of the range of values, within which most of a scan's border lies if it is background
STRONG = 0.1  # of the brain's values, above which a voxel is surely no noise
NOISE = 0.95  # quantile of what lies away from the brain, by which the noise there is measured
AWAY = 4  # voxels from the box of what is strong, beyond which the brain's dark rim does not reach
PART = 0.1  # of the largest piece, from which another belongs to the brain, such as the other hemisphere
AROUND = np.ones((3, 3, 3))  # voxels that touch at a corner are of one piece


@dataclasses.dataclass(frozen=True)
class Levels:
    """Says what the values of a scan mean.

    Attributes:
      background: value of what is no brain: that of the scan's border if this is all alike, else 0.
      brain: how far nearly all of the brain's values are from it at most, above 0.
      two_sided: whether the brain's values lie on both sides of it, as standardised ones do around 0.
    """

    background: float
    brain: float
    two_sided: bool

    def distance(self, array: np.ndarray) -> np.ndarray:
        """How much each voxel is brain, not background; where brains are only brighter, 0 or less is background."""
        away = array - np.float32(self.background)
        return np.abs(away, out=away) if self.two_sided else away


def levels(array: np.ndarray) -> Levels:
    """Looks at the border, and at the values elsewhere.

    Args:
      array: [I, J, K] float32, finite, of at least two values.
    """
    low, high = np.quantile(array, (0.005, 0.995))
    spread = high - low or np.ptp(array)
    faces = [np.take(array, (0, -1), axis).ravel() for axis in range(3)]
    border = np.concatenate(faces)
    background = np.quantile(border, 0.5, method="lower")  # a value that is there, so that what equals it is at 0
    if np.mean(np.abs(border - background) <= ALIKE * spread) <= 0.5:
        background = np.float32(0)
    away = array - background
    away = away[np.abs(away) > ALIKE * spread]
    brain = np.quantile(np.abs(away), 0.95)  # one bright speck is no measure
    strong = np.abs(away) > STRONG * brain
    two_sided = np.count_nonzero(strong & (away < 0)) > 0.05 * np.count_nonzero(strong)
    return Levels(float(background), float(brain), bool(two_sided))


def inside(array: np.ndarray, of: Levels) -> np.ndarray:
    """Which voxels are brain: [I, J, K] bool, the largest piece of what is above the background's noise, and such as it.

    Without noise, all that is not background counts, however little it differs. Where there is noise the threshold is three
    times its level, and at least a thousandth and at most a tenth of the brain's values.
    """
    distance = of.distance(array)
    core = box(main_pieces(distance > STRONG * of.brain), margin=AWAY)
    elsewhere = np.ones(array.shape, bool)
    elsewhere[core] = False
    noise = float(np.quantile(np.maximum(distance[elsewhere], 0), NOISE)) if elsewhere.any() else 0.0
    threshold = float(np.clip(3 * noise, 1e-3 * of.brain, STRONG * of.brain)) if noise > 0 else 0.0
    return main_pieces(distance > threshold)


def main_pieces(mask: np.ndarray) -> np.ndarray:
    """The largest connected piece of a mask, and others of at least a tenth of its size; specks are left out."""
    pieces, count = ndimage.label(mask, AROUND)
    if count < 2:
        return mask
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return (sizes >= PART * sizes.max())[pieces]


def box(mask: np.ndarray, margin: int) -> tuple[slice, ...]:
    """The smallest box that holds all of a mask, and `margin` voxels around it as far as there are any; of none, all."""
    slices = []
    if not mask.any():  # smaller than the voxels it was brought to
        return (slice(0, None),) * 3
    for axis in range(3):
        there = np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))
        slices.append(slice(max(0, int(there[0]) - margin), int(there[-1]) + 1 + margin))
    return tuple(slices)


def with_dark_background(array: np.ndarray, darkest: float = np.inf) -> np.ndarray:
    """The volume itself, unless its background is the middle of the brain's values: then that becomes the least of these.

    Args:
      array: as for `levels`.
      darkest: what it becomes if that is less still.
    """
    of = levels(array)
    if not of.two_sided:
        return array
    brain = inside(array, of)
    least = np.float32(min(array[brain].min(), darkest))
    return np.where(ndimage.binary_fill_holes(brain), array, least)
