"""Draws generated volumes beside the training volumes they may be copies of."""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medjax.metrics.alignment import aligned
from medjax.metrics.memorization import Copies
from medjax.pictures import GAP, LABEL_HEIGHT, three_planes

MOST_PAIRS = 8
COLUMNS = ("generated", "nearest of training, laid over it", "difference")
AXES = ("first axis", "second axis", "third axis")
DARK, LIGHT, ALARM = (0, 0, 0), (255, 255, 255), (255, 120, 90)


def closest_pairs(
    copies: Copies,
    generated: Callable[[int], np.ndarray],
    training: Callable[[int], np.ndarray],
    generated_names: Sequence[str],
    training_names: Sequence[str],
    affine: np.ndarray,
    most: int = MOST_PAIRS,
    height: int = 128,
) -> Image.Image:
    """Draws a row for each of the most suspicious generated volumes: it, its nearest training volume, their difference.

    The training volume is mirrored and moved to lie as the generated one does. In the difference, mid-grey is none; white and
    black are half of the range of intensities. Flagged pairs have a red caption.

    Args:
      copies: of these volumes.
      generated: the number of a volume to it, [I, J, K] in [-1, 1], axes as in files.
      training: likewise.
      generated_names: of each.
      training_names: likewise.
      affine: [4, 4], of all volumes.
      most: rows.
      height: of the three planes of a volume, pixels.
    """
    font = ImageFont.load_default(LABEL_HEIGHT - 5)
    rows = []
    for m in copies.closest[:most]:
        n = copies.nearest[m]
        volume = generated(m)
        pair = aligned(training(n), volume)
        pictures = [three_planes(each, affine, height) for each in (volume, pair.volume, volume - pair.volume)]
        turned = f", mirrored along the {', '.join(AXES[axis] for axis in pair.mirror)}" if pair.mirror else ""
        caption = f"{generated_names[m]}  -  {training_names[n]}{turned}:  {_verdict(copies, m)}"
        rows.append((caption, bool(copies.flagged[m]), pictures))

    panel = 2 * GAP + max(picture.shape[1] for _, _, pictures in rows for picture in pictures)
    widths = [GAP + len(COLUMNS) * (panel + GAP)] + [2 * GAP + round(font.getlength(caption)) for caption, _, _ in rows]
    line = height + GAP + LABEL_HEIGHT
    canvas = Image.new("RGB", (max(widths), LABEL_HEIGHT + len(rows) * line + GAP), DARK)
    draw = ImageDraw.Draw(canvas)
    for column, name in enumerate(COLUMNS):
        draw.text((GAP + column * (panel + GAP), 1), name, fill=LIGHT, font=font)
    for row, (caption, flagged, pictures) in enumerate(rows):
        top = LABEL_HEIGHT + row * line
        draw.text((GAP, top + 1), caption, fill=ALARM if flagged else LIGHT, font=font)
        for column, picture in enumerate(pictures):
            canvas.paste(Image.fromarray(picture), (GAP + column * (panel + GAP), top + LABEL_HEIGHT))
    return canvas


def _verdict(copies: Copies, m: int) -> str:
    """Writes what every space says of a generated volume."""
    said = []
    for space in copies.spaces:
        limit = "not calibrated" if space.threshold is None else f"limit {space.threshold:.2f}"
        said.append(f"{space.name} r {space.correlations[m]:.2f}, score {space.scores[m]:.2f} ({limit})")
    if copies.calibrated:
        said.insert(0, "COPY" if copies.flagged[m] else "no copy")
    return ";  ".join(said)
