"""Brings volumes at low resolution, flipped, into one pose: there, what remains of two copies of a volume is the same."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

EDGE = 32  # voxels of the longest side at low resolution
BLUR = 1.0  # standard deviation there, voxels
CHUNK = 32  # volumes filtered at once
STEPS = 20  # of Gauss-Newton at most; it takes about ten
SETTLED = 1e-3  # of half a side: a step that changes the map by less is the last
RIDGE = 1e-3  # on the map, relative to what the template tells of it

# All eight combinations of flips along D, H and W.
MIRRORS = tuple(
    tuple(axis for axis, turned in enumerate(which) if turned) for which in itertools.product((0, 1), repeat=3)
)


@dataclasses.dataclass(frozen=True)
class Aligned:
    """Holds a volume laid over another.

    Attributes:
      volume: [D, H, W], as the other lies.
      mirror: the axes (0 to 2) that were flipped.
      correlation: correlation of the two at low resolution, once laid over each other.
    """

    volume: np.ndarray
    mirror: tuple[int, ...]
    correlation: float


def low_passed(volumes: np.ndarray, edge: int = EDGE, blur: float = BLUR) -> np.ndarray:
    """Averages volumes [n, D, H, W, 1] on a grid of at most `edge` voxels a side, then blurs them: [n, d, h, w] float32.

    Noise goes, and so do warps of less than a voxel of that grid. Mirroring before is the same as mirroring after.
    """
    matrices = [_low_pass(length, min(length, edge), blur) for length in volumes.shape[1:4]]
    parts = [volumes[start : start + CHUNK, ..., 0] for start in range(0, len(volumes), CHUNK)]
    return np.concatenate([_resampled(np.asarray(part, np.float32), matrices) for part in parts])


def mirrored(volumes: np.ndarray, mirror: Sequence[int]) -> np.ndarray:
    """Flips volumes [n, d, h, w] along some of the axes d, h, w (0 to 2)."""
    return np.flip(volumes, [axis + 1 for axis in mirror])


def posed(volumes: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Moves, turns and stretches each volume [n, d, h, w] to lie as `template` [d, h, w] does, by `_Template`."""
    fit = _Template(template)
    halves = _resampled(volumes, fit.matrices)
    return np.stack([fit.pose(volume, half)[0] for volume, half in zip(volumes, halves, strict=True)])


def aligned(volume: np.ndarray, onto: np.ndarray) -> Aligned:
    """Lays `volume` [D, H, W] over `onto`, of the same shape: the best of all flips and of an affine map after each."""
    low, low_onto = (low_passed(x[None, ..., None])[0] for x in (volume, onto))
    fit = _Template(low_onto)
    found = []
    for mirror in MIRRORS:
        turned = np.flip(low, mirror)
        moved, affine = fit.pose(turned, _resampled(turned[None], fit.matrices)[0])
        found.append((_correlation(moved, low_onto), mirror, affine))
    correlation, mirror, affine = max(found, key=lambda each: each[0])
    return Aligned(_moved(np.flip(volume, mirror).astype(np.float32), affine), mirror, correlation)


class _Template:
    """Holds what volumes are brought to: an affine map and a brightness for each that bring it nearest in the mean square.

    The inverse compositional form of Gauss-Newton (Baker and Matthews 2004, "Lucas-Kanade 20 years on"): the template's own
    slopes serve for every volume and step. The map is found at half the resolution. Where it brings a volume no nearer,
    the volume stays as it is.
    """

    def __init__(self, template: np.ndarray):
        self.template = template
        self.matrices = [_low_pass(length, max(2, length // 2), 0.5) for length in template.shape]
        self.half = _resampled(template[None], self.matrices)[0]
        axes = [(2 * np.arange(n) + 1) / n - 1 for n in self.half.shape]
        places = np.stack([*np.meshgrid(*axes, indexing="ij"), np.ones(self.half.shape)]).reshape(4, -1)
        slopes = [np.gradient(self.half.astype(np.float64), 2 / n, axis=d) for d, n in enumerate(self.half.shape)]
        jacobian = np.einsum("av,bv->abv", np.stack(slopes).reshape(3, -1), places).reshape(12, -1)
        normal = jacobian @ jacobian.T
        normal += (RIDGE * np.trace(normal) / 12 + 1e-12) * np.eye(12)  # what the template does not tell stays as it is
        self.solver = np.linalg.solve(normal, jacobian).astype(np.float32)

    def pose(self, volume: np.ndarray, half: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the volume [d, h, w] as the template lies, found from it at half the resolution, and the map `_moved` takes."""
        affine = np.eye(4)
        for _ in range(STEPS):
            moved = _moved(half, affine)
            bright = (moved - moved.mean()) / (moved.std() + 1e-6) * self.half.std() + self.half.mean()
            change = np.eye(4)
            # einsum: BLAS would start threads for this little, which on a busy machine wait for each other.
            change[:3] += np.einsum("av,v->a", self.solver, (bright - self.half).ravel()).reshape(3, 4)
            if abs(np.linalg.det(change)) < 0.1:  # away from anything that could be a template's volume
                return volume, np.eye(4)
            affine = affine @ np.linalg.inv(change)
            if np.abs(change - np.eye(4)).max() < SETTLED:
                break
        moved = _moved(volume, affine)
        if _correlation(moved, self.template) > _correlation(volume, self.template):
            return moved, affine
        return volume, np.eye(4)


def _low_pass(n: int, m: int, blur: float) -> np.ndarray:
    """Returns the matrix [m, n] that averages over m equal parts of n voxels and then blurs with a Gaussian."""
    edges, voxels = np.arange(m + 1) * n / m, np.arange(n)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    gaussian = np.exp(-((np.arange(m)[:, None] - np.arange(m)) ** 2) / (2 * blur**2))
    return (gaussian / gaussian.sum(axis=1, keepdims=True) @ (np.maximum(overlap, 0) * m / n)).astype(np.float32)


def _resampled(volumes: np.ndarray, matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Resamples [n, D, H, W] to [n, d, h, w], by a matrix an axis."""
    for matrix in matrices:  # each takes the first axis after n and puts its own last
        volumes = np.tensordot(volumes, matrix, axes=(1, 1))
    return volumes


def _moved(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Samples `volume` where `affine` [4, 4] puts the middles of its voxels, in [-1, 1] on each axis at any resolution."""
    half = np.array(volume.shape) / 2
    matrix = affine[:3, :3] * half[:, None] / half
    # Voxel v lies at (v + 1/2) / half - 1.
    offset = half * (affine[:3, 3] + 1 + affine[:3, :3] @ (0.5 / half - 1)) - 0.5
    return ndimage.affine_transform(volume, matrix, offset, order=1, mode="nearest", prefilter=False)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b) + 1e-12))
