"""Pictures of volumes: three mid-slices side by side, upright whatever the voxel order, and montages of many."""

from collections.abc import Sequence

import nibabel
import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 4  # pixels between pictures
LABEL_HEIGHT = 18


def three_planes(volume: np.ndarray, affine: np.ndarray, height: int = 128) -> np.ndarray:
    """Draws the axial, coronal and sagittal mid-slice of a volume, side by side.

    Args:
      volume: [I, J, K] voxels in [-1, 1].
      affine: 4 x 4, voxel to millimetres in RAS. Slices are cut and turned by it: anterior or superior is up, the patient's
        left is on the left (neurological convention), and a millimetre is as long in every direction.
      height: height of the picture, pixels.

    Returns:
      [height, W] uint8.
    """
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(volume.astype(np.float32), affine))
    voxels = np.asarray(image.dataobj)
    dx, dy, dz = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    i, j, k = (length // 2 for length in voxels.shape)
    # (slice with rows going up, columns going right; millimetres a row, a column)
    planes = [(voxels[:, :, k].T, dy, dx), (voxels[:, j, :].T, dz, dx), (voxels[i, :, :].T, dz, dy)]
    tallest = max(plane.shape[0] * row for plane, row, _ in planes)
    panels = []
    for plane, row, column in planes:
        size = (
            max(1, round(plane.shape[1] * column / tallest * height)),
            max(1, round(plane.shape[0] * row / tallest * height)),
        )
        grey = Image.fromarray(to_grey(plane[::-1])).resize(size, Image.Resampling.BICUBIC)
        panel = Image.new("L", (size[0], height))
        panel.paste(grey, (0, (height - size[1]) // 2))
        panels.append(np.asarray(panel))
    return np.concatenate(panels, axis=1)


def montage(rows: Sequence[tuple[str, Sequence[np.ndarray]]], affine: np.ndarray, height: int = 128) -> Image.Image:
    """Draws one picture of many volumes.

    Args:
      rows: a label and the volumes, each [I, J, K] in [-1, 1], of every row.
      affine: affine of all volumes.
      height: height of a volume's three planes, pixels.
    """
    strips = [
        (label, [three_planes(volume, affine, height) for volume in volumes]) for label, volumes in rows if len(volumes)
    ]
    width = max(sum(picture.shape[1] + GAP for picture in pictures) for _, pictures in strips)
    canvas = Image.new("L", (width + GAP, len(strips) * (height + GAP + LABEL_HEIGHT) + GAP))
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(LABEL_HEIGHT - 5)
    top = 0
    for label, pictures in strips:
        draw.text((GAP, top + 1), label, fill=255, font=font)
        left = GAP
        for picture in pictures:
            canvas.paste(Image.fromarray(picture), (left, top + LABEL_HEIGHT))
            left += picture.shape[1] + GAP
        top += height + GAP + LABEL_HEIGHT
    return canvas


def to_grey(values: np.ndarray) -> np.ndarray:
    """Turns [-1, 1] into uint8 0..255, clipped; what is not a number is black."""
    return np.round(np.clip(np.nan_to_num((values + 1.0) / 2.0), 0.0, 1.0) * 255.0).astype(np.uint8)
