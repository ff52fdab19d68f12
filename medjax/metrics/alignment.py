"""Volumes at low resolution, mirrored and brought into one pose: what remains of two copies of one volume is the same."""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

EDGE = 32  # voxels of the longest side at low resolution
BLUR = 1.0  # its standard deviation there, voxels
STEPS = 20  # of Gauss-Newton, at the most
RIDGE = 1e-3

MIRRORS = tuple(
    tuple(axis for axis, turned in enumerate(which) if turned) for which in itertools.product((0, 1), repeat=3)
)


def low_passed(volumes: np.ndarray, edge: int = EDGE, blur: float = BLUR) -> np.ndarray:
    """Volumes [n, D, H, W, 1] averaged onto a grid of at most `edge` voxels a side, then blurred: [n, d, h, w] float32.

    Noise goes, and so do warps of less than a voxel of that grid. Mirroring before is the same as mirroring after.
    """
    matrices = [_low_pass(length, min(length, edge), blur) for length in volumes.shape[1:4]]
    low = np.empty((len(volumes), *(len(matrix) for matrix in matrices)), np.float32)
    for n, volume in enumerate(volumes):
        low[n] = _resampled(np.asarray(volume[..., 0], np.float32), matrices)
    return low


def mirrored(volumes: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """[n, d, h, w] with the order of voxels turned round along some of the axes d, h, w (0 to 2)."""
    return np.flip(volumes, [axis + 1 for axis in axes])


def posed(volumes: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Each volume [n, d, h, w] moved, turned and stretched to lie as `template` [d, h, w] does.

    The affine map and the brightness that bring it nearest in the mean square, by the inverse compositional form of
    Gauss-Newton (Baker and Matthews 2004, "Lucas-Kanade 20 years on"), found at half the resolution. Where that brings a
    volume no nearer, it stays as it is.
    """
    halves = [_low_pass(length, max(2, length // 2), 0.5) for length in template.shape]
    small = _resampled(template, halves)
    solver = _solver(small)
    return np.stack([_posed(volume, template, _resampled(volume, halves), small, solver) for volume in volumes])


def _low_pass(n: int, m: int, blur: float) -> np.ndarray:
    """[m, n]: means over m equal parts of n voxels, then a Gaussian."""
    edges = np.arange(m + 1) * n / m
    voxels = np.arange(n)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    gaussian = np.exp(-((np.arange(m)[:, None] - np.arange(m)) ** 2) / (2 * blur**2))
    return (gaussian / gaussian.sum(axis=1, keepdims=True) @ (np.maximum(overlap, 0) * m / n)).astype(np.float32)


def _resampled(volume: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    for matrix in matrices:  # each takes the first axis and puts its own last
        volume = np.tensordot(volume, matrix, axes=(0, 1))
    return volume


def _solver(template: np.ndarray) -> np.ndarray:
    """[12, voxels]: from what differs from the template to the change of the affine map, in [-1, 1] on each axis."""
    axes = [(2 * np.arange(n) + 1) / n - 1 for n in template.shape]
    places = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones(template.shape)]).reshape(4, -1)
    slopes = [np.gradient(template.astype(np.float64), 2 / n, axis=axis) for axis, n in enumerate(template.shape)]
    jacobian = np.einsum("av,bv->abv", np.stack(slopes).reshape(3, -1), places).reshape(12, -1)
    normal = jacobian @ jacobian.T
    normal += RIDGE * np.trace(normal) / 12 * np.eye(12)  # what the template does not tell stays as it is
    return np.linalg.solve(normal, jacobian).astype(np.float32)


def _posed(
    volume: np.ndarray, template: np.ndarray, small: np.ndarray, target: np.ndarray, solver: np.ndarray
) -> np.ndarray:
    mean, deviation = target.mean(), target.std()
    affine = np.eye(4)
    for _ in range(STEPS):
        moved = _moved(small, affine)
        bright = (moved - moved.mean()) / (moved.std() + 1e-6) * deviation + mean
        change = np.eye(4)
        change[:3] += (solver @ (bright - target).ravel()).reshape(3, 4)
        affine = affine @ np.linalg.inv(change)
        if np.abs(change - np.eye(4)).max() < 1e-3:
            break
    moved = _moved(volume, affine)
    return moved if _correlation(moved, template) > _correlation(volume, template) else volume


def _moved(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What `volume` shows where `affine` [4, 4] puts the middles of its voxels, in [-1, 1] on each axis."""
    half = np.array(volume.shape) / 2
    matrix = affine[:3, :3] * half[:, None] / half
    # Voxel v lies at (v + 1/2) / half - 1.
    offset = half * (affine[:3, 3] + 1 + affine[:3, :3] @ (0.5 / half - 1)) - 0.5
    return ndimage.affine_transform(volume, matrix, offset, order=1, mode="nearest", prefilter=False)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])
