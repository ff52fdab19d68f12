"""Straightens the slices of a tilted gantry, which lie askew above each other, into an upright stack.

dcm2niix does so too, and says itself that it is to be validated: of tilts to the other side and of slices from the top
down it makes volumes that are tens of millimetres off.
"""

import numpy as np
import scipy.ndimage

from data_pipelines.formats.nifti import Volume


def straightened(volume: Volume, fill: float) -> Volume:
    """Moves every slice in its own plane so that the axis of the slices is at a right angle to it.

    Values between pixels are interpolated linearly, within a slice only; the volume grows so that nothing is lost.

    Args:
      volume: [columns, rows, slices] with a sheared affine.
      fill: goes where no slice has a pixel.
    """
    affine = volume.affine
    across, down, step = affine[:3, :3].T
    normal = np.cross(across, down)
    normal /= np.linalg.norm(normal)
    upright = affine.copy()
    upright[:3, 2] = normal * (step @ normal)
    last = volume.array.shape[2] - 1
    # The sideways shift of a slice in pixels of its rows and columns, by slice; only the last and the first count.
    shift = np.array([step @ across / (across @ across), step @ down / (down @ down)])
    low, high = np.floor(np.minimum(0, shift * last)), np.ceil(np.maximum(0, shift * last))
    upright[:3, 3] += across * low[0] + down * low[1]
    shape = (*(np.array(volume.array.shape[:2]) + (high - low).astype(int)), last + 1)
    array = np.full(shape, fill, np.float32)
    for k in range(last + 1):
        # Output pixel p of slice k is input pixel p + low - shift * k.
        scipy.ndimage.affine_transform(
            volume.array[:, :, k],
            np.ones(2),
            low - shift * k,
            output=array[:, :, k],
            output_shape=shape[:2],
            order=1,
            mode="constant",
            cval=fill,
        )
    return Volume(array, upright, volume.description)
