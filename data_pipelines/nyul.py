"""Standardises the intensities of MR, which have no unit, by the landmarks of histograms: Nyul, Udupa and Zhang 2000.

A scan's landmarks are percentiles of its foreground. The standard scale is where these lie on average over the training
scans, each brought to a common range first. A scan is standardised by the piecewise linear function that takes its landmarks
to the scale's: then the same tissue has nearly the same value in every scan of one contrast. Pure functions; L. G. Nyul, J. K.
Udupa, X. Zhang, "New variants of a method of MRI scale standardization", IEEE TMI 19(2), 2000, with its deciles L4.
"""

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
    """The mean of landmarks that were brought to a range from 0, of the first percentile, to 1, of the last: [11] float64.

    Args:
      of_scans: what `landmarks` gives of each training scan, in any order; scans whose foreground has one value tell nothing
        and are left out.

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
      found: its `landmarks`.
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
    piece = np.clip(np.searchsorted(source, array, side="right") - 1, 0, len(source) - 2)
    slopes = np.diff(target) / np.diff(source)
    return (target[piece] + (array - source[piece]) * slopes[piece]).astype(np.float32)
