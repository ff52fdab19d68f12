"""Pixels outside a scan's field, which scanners fill with values that are no measurement (PixelPaddingValue)."""

import numpy as np
import pydicom

from data_pipelines.formats.dicom_headers import value

AIR = -1000.0  # HU


def padding_range(dataset: pydicom.Dataset) -> tuple[int, int] | None:
    """The least and the largest stored value that stand for no measurement (PS3.3, C.7.5.1.1.2); None if none do.

    The number is read as signed or unsigned as the pixels are, in whichever way it was written.
    """
    padding = value(dataset, "PixelPaddingValue")
    if padding is None:
        return None
    bits = int(value(dataset, "BitsAllocated", 16))
    half = (1 << (bits - 1)) if int(value(dataset, "PixelRepresentation", 0)) == 1 else 0
    both = (int(v) for v in (padding, value(dataset, "PixelPaddingRangeLimit", padding)))
    low, high = sorted((v + half) % (1 << bits) - half for v in both)
    return low, high


def without_padding(array: np.ndarray, padded: np.ndarray, modality: str) -> tuple[np.ndarray, str]:
    """Gives padded voxels the value of air.

    Args:
      array: intensities, HU for a CT; changed in place.
      padded: where the header's padding values are, of the same shape.
      modality: "CT" gets -1000 HU, any other the least of its other values.

    Returns:
      The array, and in words what was done; empty if nothing was.
    """
    count = int(np.count_nonzero(padded))
    if count in (0, array.size):
        return array, ""
    share = f"{100 * count / array.size:.3g} % of the voxels"
    inside, outside = array[~padded], array[padded]
    low, high = inside.min(), inside.max()
    # Some headers name a value in the midst of the tissue, 0 HU above all: that is water.
    if ((outside > low) & (outside < high)).any():
        return array, f"PixelPaddingValue lies among the measured values, so {share} that have it stay as they are"
    air = AIR if modality == "CT" else float(low)
    array[padded] = air
    return array, f"{share} are padding (PixelPaddingValue), set to {air:g}"
