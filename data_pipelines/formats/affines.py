"""Affines of volumes: whether one can be used, how long a voxel's edges are, and how far axes are from right angles."""

import nibabel as nib
import numpy as np

FLAT = 1e-3  # the volume of a voxel with edges of length 1, below which its axes lie in one plane
SHEARED = 1e-3  # the cosine between two axes from which they are not at right angles; files in float32 stay below 1e-6

ROUNDED = 1e-5  # the cosine below which axes were at right angles before they were rounded to float32; ITK takes less than 1e-4


def usable(affine: np.ndarray) -> bool:
    """Whether an affine [4, 4] is finite and maps voxels to a volume, not to a plane, a line or a point."""
    if not np.isfinite(affine).all():
        return False
    edges = spacing(affine)
    if not (edges > 0).all() or not np.isfinite(edges).all():
        return False
    # That each axis has a direction of its own is asked besides: to turn a volume, one must know which is which.
    flat = abs(np.linalg.det(affine[:3, :3] / edges)) < FLAT
    return not flat and not np.isnan(nib.orientations.io_orientation(affine)).any()


def spacing(affine: np.ndarray) -> np.ndarray:
    """[3] lengths of a voxel's edges; of a sheared voxel the slanted ones, as nibabel and the pixdim of NIfTI count them."""
    return np.sqrt((affine[:3, :3] ** 2).sum(axis=0))


def orientation(affine: np.ndarray) -> str:
    """Where the axes run, nearly: "RAS" to the right, the front (anterior) and the top (superior); L, P, I are opposite."""
    return "".join(nib.orientations.aff2axcodes(affine))


def shear(affine: np.ndarray) -> float:
    """The largest |cosine| between two axes: 0 where all are at right angles, 1 where two coincide."""
    directions = affine[:3, :3] / spacing(affine)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def orthonormal(affine: np.ndarray, shape: tuple[int, int, int] | None = None) -> np.ndarray:
    """Turns the axes to the nearest ones at right angles (the polar decomposition); edges keep their length.

    Args:
      affine: [4, 4], usable; the result has its handedness.
      shape: of the volume, whose centre then stays where it is; without, the first voxel does.
    """
    edges = spacing(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / edges)
    straight = np.eye(4)
    straight[:3, :3] = (left @ right) * edges
    fixed = np.zeros(3) if shape is None else (np.asarray(shape, np.float64) - 1) / 2
    straight[:3, 3] = affine[:3, 3] + (affine[:3, :3] - straight[:3, :3]) @ fixed
    return straight


def without_shear(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """An affine as ITK takes it: the very same if its axes are at right angles to float32's precision, else `orthonormal`."""
    return orthonormal(affine, shape) if shear(affine) > ROUNDED else affine


def straight_grid(affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, tuple[int, int, int]]:
    """A grid at right angles that holds every voxel of a sheared volume; to interpolate it onto, which mends the shear.

    The first axis keeps its direction, the second the plane of the first two; distances are those of rows and of slices,
    at right angles: 3 mm for slices 3 mm apart, however far each is shifted along itself.

    Args:
      affine: [4, 4], usable.
      shape: of the volume.

    Returns:
      the affine and the shape of the grid.
    """
    directions, upper = np.linalg.qr(affine[:3, :3])
    corners = np.array([*np.ndindex(2, 2, 2)]) * (np.asarray(shape) - 1)
    steps = np.diag(upper)  # some below 0, where the direction is, too
    reached = corners @ (upper / steps[:, None]).T  # the corners, in voxels of the new grid
    low, high = np.floor(reached.min(axis=0) + 1e-6), np.ceil(reached.max(axis=0) - 1e-6)
    grid = np.eye(4)
    grid[:3, :3] = directions * steps
    grid[:3, 3] = affine[:3, 3] + grid[:3, :3] @ low
    return grid, tuple(int(n) for n in high - low + 1)
