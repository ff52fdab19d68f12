"""Tells whether slices are one regular stack, and where it lies."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.formats.dicom_headers import Numbers, Slice

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's x runs to the left, its y to the back
TOLERANCE = 1e-4  # of direction cosines, and mm of pixel spacings, that differ in writing only
SAME_PLACE = 1e-3  # mm
GAP_TOLERANCE = 0.1  # of the slice distance; scanners round positions


class Irregular(ValueError):
    """Says in a few words why slices are not one volume."""


@dataclasses.dataclass(frozen=True)
class Stack:
    """Slices one above the other.

    Attributes:
      order: which of the slices given is the first, second, ...
      affine: [4, 4] float64, of an array [columns, rows, slices] in that order, to RAS+ mm; sheared if the gantry was
        tilted.
      distance: mm between the planes of neighbours.
      drift: mm by which the last slice is shifted sideways against the first; more than a pixel is a tilted gantry.
      tilted: whether it is.
    """

    order: tuple[int, ...]
    affine: np.ndarray
    distance: float
    drift: float
    tilted: bool


def same_plane(a: Slice, b: Slice) -> bool:
    """Whether two slices have the same size, orientation and pixel spacing, as numbers."""
    return (a.rows, a.columns) == (b.rows, b.columns) and all(
        (x is None) == (y is None) and (x is None or np.allclose(x, y, rtol=0, atol=TOLERANCE))
        for x, y in ((a.orientation, b.orientation), (a.spacing, b.spacing))
    )


def lacks(plane: Slice) -> str | None:
    """Names what a slice does not say, or says impossibly, of its place; None if it is well described."""
    for key, found in (
        ("ImagePositionPatient", plane.position),
        ("ImageOrientationPatient", plane.orientation),
        ("PixelSpacing", plane.spacing),
    ):
        if found is None:
            return f"{key} is missing or empty"
    across, down = np.reshape(plane.orientation, (2, 3))
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if not np.allclose([*lengths, across @ down + 1], 1, rtol=0, atol=1e-2):
        return f"ImageOrientationPatient {list(plane.orientation)} is not two unit vectors at a right angle"
    if min(plane.spacing) <= 0:
        return f"PixelSpacing is {list(plane.spacing)}"
    return None


def places(slices: Sequence[Slice]) -> list[list[int]]:
    """Indices of slices (of one orientation) by where they lie: sorted along their normal, those in one place together."""
    normal = _normal(slices[0].orientation)
    positions = np.asarray([plane.position for plane in slices], np.float64)
    heights = positions @ normal
    groups: list[list[int]] = []
    for n in np.argsort(heights, kind="stable").tolist():
        if groups and heights[n] - heights[groups[-1][0]] < SAME_PLACE:
            groups[-1].append(n)
        else:
            groups.append([n])
    return groups


def stack(slices: Sequence[Slice]) -> Stack:
    """Orders slices by their positions (PS3.3, C.7.6.2.1.1).

    Raises:
      Irregular: fewer than two, some are in one place, missing or uneven, or they shift sideways unevenly.
    """
    if len(slices) < 2:
        raise Irregular(f"{len(slices)} slices only" if len(slices) != 1 else "1 slice only")
    groups = places(slices)
    if twice := sum(len(group) - 1 for group in groups):
        raise Irregular(f"{twice} slices lie where another one does")
    order = [group[0] for group in groups]
    across, down = np.reshape(slices[order[0]].orientation, (2, 3))
    normal = _normal(slices[order[0]].orientation)
    positions = np.asarray([slices[n].position for n in order], np.float64)
    row_distance, column_distance = slices[order[0]].spacing
    distance = _regular_distance(positions, normal)
    drift, tilted = _drift(positions, normal, min(row_distance, column_distance))
    affine = np.eye(4)
    affine[:3, 0] = across * column_distance
    affine[:3, 1] = down * row_distance
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return Stack(tuple(order), LPS_TO_RAS @ affine, distance, drift, tilted)


def _normal(orientation: Numbers) -> np.ndarray:
    return np.cross(*np.reshape(np.asarray(orientation, np.float64), (2, 3)))


def _regular_distance(positions: np.ndarray, normal: np.ndarray) -> float:
    """Median distance of sorted slice positions [n, 3], in mm."""
    gaps = np.diff(positions @ normal)
    distance = float(np.median(gaps))
    if (np.abs(gaps - distance) <= GAP_TOLERANCE * distance).all():
        return distance
    n = len(positions)
    steps = np.rint(gaps / distance)
    missing = int(steps.sum()) - (n - 1)
    if missing > 0 and missing < n and (np.abs(gaps - steps * distance) <= GAP_TOLERANCE * distance).all():
        raise Irregular(f"{n} of {n + missing} slices, {missing} missing at {distance:g} mm")
    raise Irregular(f"{n} slices, unevenly {gaps.min():.4g} to {gaps.max():.4g} mm apart")


def _drift(positions: np.ndarray, normal: np.ndarray, pixel: float) -> tuple[float, bool]:
    """The sideways shift from first slice to last, and whether it is a tilt: more than a pixel."""
    sideways = positions - positions[0]
    sideways = sideways - np.outer(sideways @ normal, normal)
    furthest = float(np.linalg.norm(sideways, axis=1).max())
    if furthest <= pixel:
        return furthest, False
    steady = np.outer(np.linspace(0, 1, len(positions)), sideways[-1])
    if np.linalg.norm(sideways - steady, axis=1).max() > pixel / 2:
        raise Irregular(f"slices shift sideways, unsteadily, by {furthest:.1f} mm")
    return furthest, True
