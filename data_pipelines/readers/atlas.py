"""Made-up subjects of the MNI152 T1 template that nilearn ships: data at hand wherever this project is installed.

Subject n of a seed is one brain, whatever the grid it is sampled on: a diffeomorphism of the template (a stationary
velocity field integrated by scaling and squaring, Arsigny et al. 2006, "A Log-Euclidean framework for statistics on
diffeomorphisms", then a small affine map), its own contrast, bias field and noise, and for some subjects a lesion.
Lengths are in millimetres of MNI152 space.
"""

import dataclasses
import functools
import importlib.util
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import interpolate, ndimage

from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import Volume
from data_pipelines.transforms import Shape

OTHER, GREY, WHITE, LESION = 1, 2, 3, 4  # labels; 0 is background

# The template's skull-stripped brain, and the room left around it for brains that are larger or shifted.
BRAIN_LOW, BRAIN_HIGH, MARGIN = np.array([-72.0, -107, -72]), np.array([72.0, 73, 82]), 8.0
CENTRE = (BRAIN_LOW + BRAIN_HIGH) / 2
WHITE_INTENSITY = 232.0  # of 255 in the template: the brightest white matter

# Velocities live on a grid of their own, 8 mm apart, that covers the template.
CONTROL_STEP = 8.0
CONTROL_AXES = tuple(np.arange(low, high, CONTROL_STEP) for low, high in ((-100, 105), (-140, 112), (-108, 120)))
CONTROL_SHAPE = tuple(len(axis) for axis in CONTROL_AXES)
SQUARINGS = 4

VENTRICLES = np.array([[-14.0, -18, 16], [14.0, -18, 16]])  # bodies of the lateral ventricles
VENTRICLE_RADIUS = 14.0


@dataclasses.dataclass(frozen=True)
class Template:
    """The MNI152 template as means over voxels of a given size.

    Attributes:
      intensity: [I, J, K] float32, white matter about 1.
      tissues: [3, I, J, K] float32, how much of a voxel is other (fluid, vessels), grey and white matter.
      white_points: [n, 3] positions within white matter, where lesions arise.
      affine: [4, 4] voxel indices to MNI152 space.
    """

    intensity: np.ndarray
    tissues: np.ndarray
    white_points: np.ndarray
    affine: np.ndarray


@dataclasses.dataclass(frozen=True)
class Deformation:
    """Maps a subject onto the template: position y of the subject shows position `sources(y)` of the template.

    Attributes:
      displacement: [3, *CONTROL_SHAPE], of the diffeomorphism at the control points.
      matrix: [3, 3], the affine map about CENTRE applied after it.
      shift: [3].
    """

    displacement: np.ndarray
    matrix: np.ndarray
    shift: np.ndarray

    def sources(self, axes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
        """[3, I, J, K] template positions for the grid of subject positions that `axes` span."""
        moved = np.stack([_on_grid(component, axes) for component in self.displacement])
        for dimension, axis in enumerate(axes):
            moved[dimension] += _along(axis - CENTRE[dimension], dimension)
        points = np.einsum("ab,bijk->aijk", self.matrix.astype(np.float32), moved)
        return points + (CENTRE + self.shift).astype(np.float32).reshape(3, 1, 1, 1)


def grid(size: Shape) -> np.ndarray:
    """The affine [4, 4] of the RAS+ grid of `size` isotropic voxels on which every subject's brain just fits."""
    spacing = float(np.max((BRAIN_HIGH - BRAIN_LOW + 2 * MARGIN) / np.asarray(size)))
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = CENTRE - spacing * (np.asarray(size) - 1) / 2
    return affine


def subject(seed: int, n: int, size: Shape, lesion_share: float = 0.25) -> tuple[Volume, Volume]:
    """Makes subject n.

    Args:
      seed: of the whole dataset.
      n: which subject, from 0; neither the number of subjects nor the order of making them matters.
      size: (I, J, K) voxels, 32 to 256 each.
      lesion_share: the fraction of subjects that have a lesion; raising it leaves the others' lesions as they are.

    Returns:
      The T1-weighted image, float32 whole numbers from 0 (background, exactly) to 1500, white matter about 1000; and
      the label map, float32 whole numbers: 0 background, 1 other, 2 grey matter, 3 white matter, 4 lesion.
    """
    affine = grid(size)
    spacing = affine[0, 0]
    axes = tuple(affine[d, 3] + spacing * np.arange(size[d]) for d in range(3))
    template = load_template(spacing)
    # One stream a purpose, so that a change to one leaves the others' draws alone.
    shape_rng, contrast_rng, lesion_rng, noise_rng = np.random.default_rng([seed, n]).spawn(4)

    points = deformation(shape_rng).sources(axes)
    voxels = points - template.affine[:3, 3].astype(np.float32).reshape(3, 1, 1, 1)  # the template's voxels are 1 mm
    intensity, other, grey, white = (
        ndimage.map_coordinates(channel, voxels, order=1, mode="constant")
        for channel in (template.intensity, *template.tissues)
    )
    brain = other + grey + white

    # Contrast: every tissue brighter or darker by some per cent, all of it bent by a gamma.
    gains = np.exp(contrast_rng.normal(0, [0.15, 0.05, 0.02])).astype(np.float32)
    mixture = gains[0] * other + gains[1] * grey + gains[2] * white
    image = intensity * mixture / np.maximum(brain, 1e-3)
    image **= np.float32(np.exp(contrast_rng.normal(0, 0.06)))

    has_lesion = lesion_rng.random() < lesion_share
    lesion = _lesion(lesion_rng, template, points) if has_lesion else np.zeros_like(image)
    image *= 1 - np.float32(lesion_rng.uniform(0.4, 0.6)) * lesion  # dark on T1, as oedema and necrosis are

    image *= np.exp(_on_grid(0.04 * _smooth_noise(contrast_rng, 50.0), axes))  # the coil's bias field
    image += noise_rng.standard_normal(size, dtype=np.float32) * np.float32(0.012)
    image = np.where(brain > 0.5, np.clip(1000 * image, 1, 1500), np.clip(1000 * intensity * 2 * brain, 0, 1500))

    labels = OTHER + np.argmax([other, grey, white], axis=0)
    labels[lesion > 0.5] = LESION
    labels[brain < 0.5] = 0
    return Volume(np.rint(image).astype(np.float32), affine), Volume(labels.astype(np.float32), affine)


def has_lesion(seed: int, n: int, lesion_share: float) -> bool:
    """Whether `subject` gives this one a lesion, without making it."""
    return np.random.default_rng([seed, n]).spawn(4)[2].random() < lesion_share


def deformation(rng: np.random.Generator) -> Deformation:
    """Draws a subject's shape: overall size and pose, lobes, ventricles, folds. The map is invertible."""
    # Brains are nearly, not quite, symmetric: the larger part of the velocity is mirrored at the midline x = 0.
    velocity = np.stack([1.8 * _smooth_noise(rng, 24.0) + 1.1 * _smooth_noise(rng, 11.0) for _ in range(3)])
    mirrored = velocity[:, ::-1] * np.array([-1, 1, 1]).reshape(3, 1, 1, 1)
    velocity = 0.75 * velocity + 0.55 * mirrored
    # Ventricles swell and shrink: a radial flow about each, about twice as much in the elderly as in the young.
    swelling = rng.normal(0, 0.2) + rng.normal(0, 0.04, size=2)
    positions = np.stack(np.meshgrid(*CONTROL_AXES, indexing="ij"))
    for centre, strength in zip(VENTRICLES, swelling, strict=True):
        offset = positions - centre.reshape(3, 1, 1, 1)
        velocity -= strength * offset * np.exp(-(offset**2).sum(0) / (2 * VENTRICLE_RADIUS**2))

    angles, log_scales = rng.normal(0, np.deg2rad(2.0), 3), rng.normal(0, 0.02) + rng.normal(0, 0.012, 3)
    return Deformation(_exponential(velocity), _rotation(angles) @ np.diag(np.exp(-log_scales)), rng.normal(0, 0.7, 3))


@functools.lru_cache(maxsize=2)
def load_template(spacing: float) -> Template:
    """The template, smoothed so that voxels of `spacing` millimetres sample it without aliasing."""
    image, grey, white = (_read_template(name) for name in ("t1", "gm", "wm"))
    affine = image.affine
    t1, grey, white = (np.asarray(i.dataobj, dtype=np.float32) / 255 for i in (image, grey, white))
    mask = t1 > 0
    grey, white = grey * mask, white * mask
    other = np.maximum(mask - grey - white, 0)
    white_points = np.argwhere(white > 0.9) + affine[:3, 3]
    # Full width at half maximum: that of the new voxel, less in quadrature what the 1 mm voxel contributes.
    sigma = np.sqrt(max(spacing**2 - 1, 0)) / 2.3548

    def smooth(x: np.ndarray) -> np.ndarray:
        return ndimage.gaussian_filter(x, sigma, truncate=3, mode="constant") if sigma else x

    intensity = smooth(t1) * np.float32(255 / WHITE_INTENSITY)
    return Template(intensity, np.stack([smooth(other), smooth(grey), smooth(white)]), white_points, affine)


def _read_template(name: str) -> nib.Nifti1Image:
    # Found without importing nilearn, which takes seconds.
    spec = importlib.util.find_spec("nilearn")
    package = Path(spec.submodule_search_locations[0] if spec else "nilearn")
    path = package / f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    if not path.exists():
        raise DataError(f"{path}: no MNI152 template; install nilearn as requirements.txt names it")
    return nib.load(path)


def _exponential(velocity: np.ndarray) -> np.ndarray:
    """The displacement [3, ...] after flowing along `velocity` for unit time, both in mm at the control points."""
    identity = np.indices(CONTROL_SHAPE, dtype=np.float64)
    displacement = velocity / CONTROL_STEP / 2**SQUARINGS
    for _ in range(SQUARINGS):
        there = identity + displacement
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(component, there, order=1, mode="nearest") for component in displacement]
        )
    return displacement * CONTROL_STEP


def _smooth_noise(rng: np.random.Generator, scale: float) -> np.ndarray:
    """A Gaussian random field at the control points, of unit variance, smooth over `scale` millimetres."""
    field = ndimage.gaussian_filter(rng.standard_normal(CONTROL_SHAPE), scale / CONTROL_STEP, mode="wrap")
    # What the filter leaves of white noise's standard deviation: (4 pi sigma^2)^(-3/4).
    return field * (4 * np.pi * (scale / CONTROL_STEP) ** 2) ** 0.75


def _on_grid(field: np.ndarray, axes: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Cubic-spline interpolation from the control points to a grid, one axis at a time; float32."""
    # einsum, not tensordot: BLAS would start threads, which on a busy machine wait for each other.
    field = field.astype(np.float32)
    for dimension, axis in enumerate(axes):
        field = np.einsum(
            ("ac,cjk->ajk", "ac,ick->iak", "ac,ijc->ija")[dimension], _spline_matrix(dimension, tuple(axis)), field
        )
    return field


@functools.lru_cache(maxsize=16)
def _spline_matrix(dimension: int, axis: tuple[float, ...]) -> np.ndarray:
    """[points, control points] weights; constant beyond the outermost control points."""
    control = CONTROL_AXES[dimension]
    points = np.clip(axis, control[0], control[-1])
    return interpolate.make_interp_spline(control, np.eye(len(control)), k=3)(points).astype(np.float32)


def _along(values: np.ndarray, dimension: int) -> np.ndarray:
    return values.astype(np.float32).reshape([-1 if d == dimension else 1 for d in range(3)])


def _rotation(angles: np.ndarray) -> np.ndarray:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


def _lesion(rng: np.random.Generator, template: Template, points: np.ndarray) -> np.ndarray:
    """How much of each voxel is lesion, 0 to 1: a lobed ellipsoid about a point of the template's white matter."""
    centre = rng.choice(template.white_points)
    radii = rng.uniform(8, 16) * rng.uniform(0.75, 1.25, 3)
    waves, phases = rng.normal(0, 1 / 8, (3, 3)), rng.uniform(0, 2 * np.pi, 3)
    offset = points - centre.astype(np.float32).reshape(3, 1, 1, 1)
    distance = np.sqrt(((offset / radii.astype(np.float32).reshape(3, 1, 1, 1)) ** 2).sum(0))
    near = distance < 2
    lobes = sum(
        np.sin(np.einsum("a,an->n", wave, offset[:, near]) + phase) for wave, phase in zip(waves, phases, strict=True)
    )
    lesion = np.zeros_like(distance)
    # The border is 2 mm wide.
    lesion[near] = 1 / (1 + np.exp((distance[near] + 0.1 * lobes - 1) * radii.mean() / 1.0))
    return lesion
