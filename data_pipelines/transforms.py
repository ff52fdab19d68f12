"""Geometry and intensity of volumes: pure functions, the affine following every geometric step.

A step keeps every piece of tissue where it is in the world: if voxel v of the result shows what voxel u of the source
showed, then affine_result @ v = affine_source @ u.
"""

import dataclasses
from collections.abc import Sequence

import nibabel as nib
import numpy as np
from scipy import ndimage

from data_pipelines.formats import affines
from data_pipelines.formats.nifti import Volume

Shape = tuple[int, int, int]
PERMUTATIONS = {"ijk": (0, 1, 2), "kij": (2, 0, 1)}


def to_orientation(volume: Volume, orientation: str) -> Volume:
    """Permutes and flips the voxel axes. "RAS": axes run to the right, anterior, superior; "native": as stored."""
    if orientation == "native":
        return volume
    current = nib.orientations.io_orientation(volume.affine)
    change = nib.orientations.ornt_transform(current, nib.orientations.axcodes2ornt(orientation))
    return dataclasses.replace(
        volume,
        array=np.ascontiguousarray(nib.orientations.apply_orientation(volume.array, change)),
        affine=volume.affine @ nib.orientations.inv_ornt_aff(change, volume.array.shape),
    )


def crop_or_pad(volume: Volume, shape: Shape, fill: float = 0.0) -> Volume:
    """Crops and pads to `shape` about the centre; where the difference is odd, the extra voxel is at the upper end."""
    return _window_of_voxels(
        volume, [_centred_start(n, m) for n, m in zip(volume.array.shape, shape, strict=True)], shape, fill
    )


def crop(volume: Volume, slices: Sequence[slice]) -> Volume:
    """Takes a box of voxels; slices have step 1."""
    ranges = [range(n)[s] for n, s in zip(volume.array.shape, slices, strict=True)]
    return _window_of_voxels(volume, [r.start for r in ranges], tuple(len(r) for r in ranges), 0.0)


def resample(volume: Volume, spacing: Sequence[float], order: int = 3) -> Volume:
    """Interpolates to voxels of exactly `spacing` millimetres, the field of view kept to within half a voxel.

    Args:
      volume: any volume.
      spacing: (I, J, K) edge lengths in millimetres.
      order: of the spline; 0 for label maps, which are then not smoothed either.
    """
    steps = np.asarray(spacing, np.float64) / volume.spacing
    shape = tuple(max(1, round(n / step)) for n, step in zip(volume.array.shape, steps, strict=True))
    return interpolate(_without_aliasing(volume, steps, order), shape, steps, order)


def resize(volume: Volume, shape: Shape, order: int = 3) -> Volume:
    """Interpolates to `shape` voxels that together cover exactly the same field of view."""
    steps = np.asarray(volume.array.shape, np.float64) / np.asarray(shape)
    return interpolate(_without_aliasing(volume, steps, order), shape, steps, order)


def interpolate(volume: Volume, shape: Shape, steps: Sequence[float], order: int) -> Volume:
    """Samples a grid of `shape` points, `steps` source voxels apart, that shares its centre with the source grid.

    Beyond the source's outermost voxel centres the nearest value continues.
    """
    steps = np.asarray(steps, np.float64)
    start = (np.asarray(volume.array.shape) - 1) / 2 - steps * (np.asarray(shape) - 1) / 2
    array = volume.array
    if not np.array_equal(shape, array.shape) or not np.allclose(steps, 1, rtol=0, atol=1e-9):
        array = ndimage.affine_transform(array, steps, start, tuple(shape), order=order, mode="nearest")
    return dataclasses.replace(volume, array=array, affine=_shifted(volume.affine, start, steps))


def average_pool(volume: Volume, factor: int) -> Volume:
    """Means over blocks of `factor` voxels an edge; every edge must be divisible by it."""
    i, j, k = (n // factor for n in volume.array.shape)
    blocks = volume.array.reshape(i, factor, j, factor, k, factor)
    return dataclasses.replace(
        volume,
        array=blocks.mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32),
        affine=_shifted(volume.affine, [(factor - 1) / 2] * 3, [factor] * 3),
    )


def pick(volume: Volume, factor: int) -> Volume:
    """Takes the voxel nearest to the centre of each block of `factor` voxels an edge: `average_pool` for label maps."""
    middle = (slice(factor // 2, None, factor),) * 3
    affine = _shifted(volume.affine, [(factor - 1) / 2] * 3, [factor] * 3)
    return dataclasses.replace(volume, array=np.ascontiguousarray(volume.array[middle]), affine=affine)


def same_grid(volume: Volume, other: Volume) -> bool:
    """Whether every voxel lies where the other's does, to a hundredth of an edge."""
    if volume.array.shape != other.array.shape:
        return False
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.asarray(volume.array.shape) - 1)
    apart = np.c_[corners, np.ones(8)] @ (np.linalg.solve(other.affine, volume.affine) - np.eye(4)).T
    return bool(np.abs(apart).max() < 0.01)


def onto(volume: Volume, grid: Volume, order: int = 3) -> Volume:
    """Interpolates to the voxels of another volume; beyond its own it is 0 if a label map, else its least value.

    Args:
      volume: any volume.
      grid: whose shape and affine are taken.
      order: of the spline; 0 for label maps, which are then not smoothed either.
    """
    if same_grid(volume, grid):
        return dataclasses.replace(volume, affine=grid.affine)
    # Rounded, so that what lies on the outermost voxels is not beyond them by an error in the last digit.
    matrix = np.round(np.linalg.solve(volume.affine, grid.affine), 9)
    smooth = _without_aliasing(volume, np.linalg.norm(matrix[:3, :3], axis=1), order).array
    beyond = 0 if order == 0 else float(volume.array.min())
    array = ndimage.affine_transform(smooth, matrix, output_shape=grid.array.shape, order=order, cval=beyond)
    return dataclasses.replace(volume, array=array, affine=grid.affine)


def straightened(volume: Volume, order: int = 3) -> Volume:
    """Interpolates a volume whose axes are not at right angles onto axes that are; the same volume where they are.

    The grid holds every voxel (`affines.straight_grid`); beyond these it is 0 if a label map, else the least value.
    """
    if affines.shear(volume.affine) <= affines.SHEARED:
        return volume
    affine, shape = affines.straight_grid(volume.affine, volume.array.shape)
    return onto(volume, dataclasses.replace(volume, array=np.broadcast_to(np.float32(0), shape), affine=affine), order)


def window(volume: Volume, low: float, high: float) -> Volume:
    """Clips intensities to [low, high] and maps that range to [-1, 1]."""
    # In place: a CT at 1 mm is 200 MB.
    array = np.clip(volume.array, np.float32(low), np.float32(high), dtype=np.float32)
    array -= np.float32(low)
    array *= np.float32(2 / (high - low))
    array -= np.float32(1)
    return dataclasses.replace(volume, array=array)


def to_network(array: np.ndarray, axes: str) -> np.ndarray:
    """[I, J, K] of a file to [D, H, W] of a network, which read the axes in the order `axes`: "ijk" or "kij"."""
    return np.transpose(array, PERMUTATIONS[axes])


def from_network(array: np.ndarray, axes: str) -> np.ndarray:
    """[D, H, W] of a network back to [I, J, K] of a file: the inverse of `to_network`."""
    return np.transpose(array, np.argsort(PERMUTATIONS[axes]))


def voxel_shape(size: Shape, axes: str) -> Shape:
    """The (I, J, K) of a volume that a network sees as `size` = (D, H, W)."""
    return tuple(size[i] for i in np.argsort(PERMUTATIONS[axes]))


def _centred_start(n: int, m: int) -> int:
    return (n - m) // 2 if n >= m else -((m - n) // 2)


def _window_of_voxels(volume: Volume, start: Sequence[int], shape: Shape, fill: float) -> Volume:
    """The box [start, start + shape) of a volume that continues as `fill` on every side."""
    if tuple(start) == (0, 0, 0) and tuple(shape) == volume.array.shape:
        return volume
    array = np.full(shape, fill, volume.array.dtype)
    inside = [(max(0, -s), min(m, n - s)) for s, m, n in zip(start, shape, volume.array.shape, strict=True)]
    to = tuple(slice(a, b) for a, b in inside)
    source = tuple(slice(a + s, b + s) for (a, b), s in zip(inside, start, strict=True))
    array[to] = volume.array[source]
    return dataclasses.replace(volume, array=array, affine=_shifted(volume.affine, start, [1, 1, 1]))


def _shifted(affine: np.ndarray, start: Sequence[float], steps: Sequence[float]) -> np.ndarray:
    """The affine of a grid whose voxel v lies at voxel start + steps * v of the grid of `affine`."""
    grid = np.diag([*steps, 1.0])
    grid[:3, 3] = start
    return affine @ grid


def _without_aliasing(volume: Volume, steps: np.ndarray, order: int) -> Volume:
    """Smooths the axes about to be sampled more coarsely, to a point spread as wide as the new voxel."""
    # Full width at half maximum: that of the new voxel, less in quadrature what the old voxel contributes.
    sigmas = np.sqrt(np.maximum(steps**2 - 1, 0)) / 2.3548
    if order == 0 or not sigmas.any():
        return volume
    return dataclasses.replace(volume, array=ndimage.gaussian_filter(volume.array, sigmas, mode="nearest"))
