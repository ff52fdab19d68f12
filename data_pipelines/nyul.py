"""Standardises the intensities of MR, which have no unit, by the landmarks of histograms: Nyul, Udupa and Zhang 2000.

A scan's landmarks are percentiles of its foreground. The standard scale is where these lie on average over the training
scans, each brought to a common range first. A scan is standardised by the piecewise linear function that takes its landmarks
to the scale's: then the same tissue has nearly the same value in every scan of one contrast. Pure functions; L. G. Nyul, J. K.
Udupa, X. Zhang, "New variants of a method of MRI scale standardization", IEEE TMI 19(2), 2000, with its deciles L4.

A window of quantiles is brought in by `measured` and `scale_in_window`: its dark end, which is the air, is one landmark more,
below all others, so that air has one value in all scans; its bright end is where those of the training scans lie on average.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

PERCENTILES = (1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)


def landmarks(array: np.ndarray) -> np.ndarray:
    """The `PERCENTILES` of the foreground, which is what lies above the mean of the volume: [11] float64, rising.

    Args:
      array: [I, J, K], finite, of at least two values.
    """
    foreground = array[array > array.mean(dtype=np.float64)]
    return np.percentile(foreground.astype(np.float64), PERCENTILES)


def standard_scale(of_scans: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of landmarks that were brought to a range from 0, of the first, to 1, of the last: [n] float64, rising.

    Args:
      of_scans: of each training scan what `landmarks` or `measured` gives, in any order; scans whose landmarks are all one
        value tell nothing and are left out.

    Raises:
      ValueError: no scan is left.
    """
    ranged = [(found - found[0]) / (found[-1] - found[0]) for found in of_scans if found[-1] > found[0]]
    if not ranged:
        raise ValueError("no scan has a foreground of more than one value")
    # Sorted first, so that the last digit does not depend on the order of scans.
    return np.sort(np.stack(ranged), axis=0).mean(axis=0)


def standardised(array: np.ndarray, found: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A volume on the standard scale, float32; values beyond the outermost landmarks follow the outermost pieces.

    Args:
      array: [I, J, K].
      found: its `landmarks`, or those that `measured` gives.
      scale: the `standard_scale`, or any other rising values.

    Raises:
      ValueError: its foreground has one value.
    """
    # Landmarks may coincide, in scans of few values: these go to the middle of where they would go.
    source, first = np.unique(found, return_index=True)
    if len(source) < 2:
        raise ValueError("the foreground has one value")
    last = np.append(first[1:], len(found)) - 1
    target = (scale[first] + scale[last]) / 2
    slopes = np.diff(target) / np.diff(source)
    result = np.empty(array.shape, np.float32)
    for n, values in enumerate(array):  # float64 of one slab at a time, not of the volume
        piece = np.clip(np.searchsorted(source, values, side="right") - 1, 0, len(source) - 2)
        result[n] = target[piece] + (values - source[piece]) * slopes[piece]
    return result


@dataclasses.dataclass(frozen=True)
class Measured:
    """Holds what a standard scale is made of, of one scan.

    Attributes:
      landmarks: [12] float64, rising: the dark end of its window, then its `landmarks`.
      bright: the bright end of its window.
    """

    landmarks: np.ndarray
    bright: float


def measured(array: np.ndarray, quantiles: tuple[float, float]) -> Measured:
    """Measures a scan.

    Args:
      array: [I, J, K], finite, not all of one value.
      quantiles: of all its voxels, the ends of its window.
    """
    dark, bright = np.quantile(array, quantiles)
    of_foreground = landmarks(array)
    return Measured(np.append(min(dark, of_foreground[0]), of_foreground), float(bright))


def scale_in_window(of_scans: Sequence[Measured]) -> tuple[float, ...]:
    """Where the landmarks of every scan come to lie if -1 is the dark end and 1 the mean bright end: 12 rising values.

    Raises:
      ValueError: no scan has landmarks of more than one value, or the bright ends are no brighter than the dark ones.
    """
    scale = standard_scale([scan.landmarks for scan in of_scans])
    telling = [scan for scan in of_scans if scan.landmarks[-1] > scan.landmarks[0]]
    ends = [standardised(np.array([scan.bright]), scan.landmarks, scale)[0] for scan in telling]
    bright = np.sort(np.asarray(ends, np.float64)).mean()
    if bright <= 0:
        raise ValueError("the bright ends of the windows are no brighter than the dark ones")
    return tuple((2 * scale / bright - 1).tolist())
