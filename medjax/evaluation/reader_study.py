"""Prepares a blinded reader study: volumes, shuffled, for people to judge, and the script that tabulates their judgement.

The questions and their four answers are those that two radiologists were asked for Medical Diffusion (arXiv 2211.03364, table
1). They saw generated volumes alone; here real ones are mixed in, without which "cannot tell" says little.
"""

import csv
import json
import os
import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.transforms import to_orientation
from medjax.errors import UserError
from medjax.evaluation import tabulate
from medjax.evaluation.tabulate import KINDS, QUESTIONS
from medjax.pictures import GAP, to_grey

BRIGHTEST = 1000  # of the int16 files
QUANTILES = (0.001, 0.999)  # of a volume, what becomes 0 and BRIGHTEST
SLICES = 7  # of each plane in a picture
HEIGHT = 160  # of one, pixels
DATED = 946684800.0  # every file, the first of January 2000: the order of writing must not tell

NamedVolume = tuple[str, np.ndarray, np.ndarray]  # a name, [I, J, K], and the affine [4, 4]

INSTRUCTIONS = """Reader study

You see {cases} volumes: volumes/ holds them for a viewer, slices/ as pictures (rows: axial, coronal, sagittal; the
patient's left is on the left). Some are real scans, some were made by a computer; how many of each you are not told.

Fill in a row of scores.csv for each case under your own name, by yourself, in the order of the sheet, without going back. A
number from 1 to 4 in each column; leave empty what you cannot judge. Do not look at file sizes or at how a viewer stores
volumes: judge what the image shows.

appearance    Does the image look real?
  1  it could not be told that this is CT or MRI       2  it could, but the whole looks unreal
  3  the whole looks real, small areas do not          4  cannot tell whether it is real or not
anatomy       Is the anatomy correct?
  1  the part of the body cannot be recognised         2  it can, but larger parts of it are wrong
  3  only small faults                                 4  correct
consistency   Do neighbouring slices fit each other?
  1  none do                                           2  only few, up to three, do
  3  most, more than ten, do                           4  all do
"""

SEALED = """Not for readers: key.json says which cases are real. Keep this folder from them until all have scored.

Then, with Python 3.11 and numpy:   python tabulate.py ../readers/scores.csv [one file a reader also works]
"""


def write_reader_study(
    folder: pathlib.Path,
    real: Sequence[NamedVolume],
    generated: Sequence[NamedVolume],
    seed: int,
    count: int,
    readers: Sequence[str] = ("reader 1", "reader 2"),
) -> int:
    """Writes FOLDER/readers, to hand out, and FOLDER/sealed, to keep: the key and the script that tabulates.

    All cases are int16 in RAS, 0 to 1000 from each volume's own 0.1 % to 99.9 % quantile, under one affine (the voxel size of
    the first real volume, the origin in the middle), with the same header, description and date. What is left to tell real
    from generated is the image, and with it how well a file compresses.

    Args:
      folder: new or empty.
      real: volumes of one shape in RAS; any intensities.
      generated: of the same shape.
      seed: of which volumes are taken and of their order.
      count: how many of each kind at most, the same of both.
      readers: names for the sheet.

    Returns:
      The number of cases.

    Raises:
      UserError: the folder holds something, or the volumes cannot be told apart fairly.
    """
    folder = folder.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"evaluate.reader_study={folder} is not empty: nothing there is overwritten, name another folder"
        )
    each = min(count, len(real), len(generated))
    if each < 1:
        raise UserError(
            f"a reader study of {count} of {len(real)} real and {len(generated)} generated volumes: give one each"
        )
    rng = np.random.default_rng(seed)
    chosen = [
        (kind, volumes[n])
        for kind, volumes in zip(KINDS, (real, generated), strict=True)
        for n in rng.permutation(len(volumes))[:each]
    ]
    cases = [chosen[n] for n in rng.permutation(len(chosen))]
    turned = [to_orientation(Volume(array, affine), "RAS") for _, (_, array, affine) in cases]
    for volume, (_, (name, *_)) in zip(turned, cases, strict=True):
        if volume.array.shape != turned[0].array.shape:
            raise UserError(
                f"reader study: {name} has {volume.array.shape} voxels, {cases[0][1][0]} {turned[0].array.shape}, which "
                "would give them away: bring all to one shape first"
            )
    affine = common_affine(to_orientation(Volume(real[0][1], real[0][2]), "RAS"))

    names = [f"case_{n:03d}" for n in range(1, len(cases) + 1)]
    open_to_readers, sealed = folder / "readers", folder / "sealed"
    for place in (open_to_readers / "volumes", open_to_readers / "slices", sealed):
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            raise UserError(f"evaluate.reader_study={folder} is being written by another job: name another") from None
    for name, volume in zip(names, turned, strict=True):
        whole = as_case(volume.array)
        nifti.write(open_to_readers / "volumes" / f"{name}.nii.gz", Volume(whole, affine), np.int16)
        slices_picture(whole, affine).save(open_to_readers / "slices" / f"{name}.png")
    (open_to_readers / "README.txt").write_text(INSTRUCTIONS.format(cases=len(cases)))
    with (open_to_readers / "scores.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["case", "reader", *QUESTIONS])
        sheet.writerows([name, reader, *[""] * len(QUESTIONS)] for reader in readers for name in names)
    key = {name: {"kind": kind, "name": of} for name, (kind, (of, *_)) in zip(names, cases, strict=True)}
    (sealed / "key.json").write_text(json.dumps({"seed": seed, "cases": key}, indent=2) + "\n")
    (sealed / "NOT_FOR_READERS.txt").write_text(SEALED)
    shutil.copyfile(tabulate.__file__, sealed / "tabulate.py")
    for path in open_to_readers.rglob("*"):
        os.utime(path, (DATED, DATED))
    return len(cases)


def as_case(array: np.ndarray) -> np.ndarray:
    """Scales any intensities to int16 from 0 to BRIGHTEST, by the array's own quantiles."""
    low, high = np.quantile(array, QUANTILES)
    scaled = (array.astype(np.float64) - low) / max(high - low, 1e-9)
    return np.rint(np.clip(scaled, 0, 1) * BRIGHTEST).astype(np.int16)


def common_affine(volume: Volume) -> np.ndarray:
    """Returns [4, 4]: the voxel size of a volume in RAS, without its position or obliqueness."""
    affine = np.diag([*volume.spacing, 1.0])
    affine[:3, 3] = -volume.spacing * (np.array(volume.array.shape) - 1) / 2
    return affine


def slices_picture(case: np.ndarray, affine: np.ndarray) -> Image.Image:
    """Draws axial, coronal and sagittal slices at equal distances, a row a plane, of a case in RAS; upright, left on the left."""
    spacing = np.diag(affine)[:3]
    rows = []
    for axis in (2, 1, 0):
        right, up = (other for other in range(3) if other != axis)
        row = []
        for n in np.linspace(0, case.shape[axis] - 1, SLICES + 2)[1:-1].round().astype(int):
            plane = case.take(n, axis=axis).T[::-1]  # rows run down, columns to the right
            width = max(1, round(HEIGHT * plane.shape[1] * spacing[right] / (plane.shape[0] * spacing[up])))
            grey = Image.fromarray(to_grey(2 * plane.astype(np.float32) / BRIGHTEST - 1))
            row.append(grey.resize((width, HEIGHT), Image.Resampling.BICUBIC))
        rows.append(row)
    widest = max(sum(picture.width + GAP for picture in row) for row in rows)
    canvas = Image.new("L", (widest + GAP, len(rows) * (HEIGHT + GAP) + GAP))
    for line, row in enumerate(rows):
        for n, picture in enumerate(row):
            canvas.paste(picture, (GAP + n * (picture.width + GAP), GAP + line * (HEIGHT + GAP)))
    return canvas
