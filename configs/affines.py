"""Where voxels lie in the world: `data.affine` of published datasets, for samples of imported weights."""


def affine_of_field(
    corner: tuple[float, float, float], directions: tuple[int, int, int], voxel: float
) -> tuple[tuple[float, ...], ...]:
    """`data.affine` of cubic voxels.

    Args:
      corner: the outermost of the first voxel, in mm to the right, the front and the top.
      directions: which way along these each of the three voxel axes runs, 1 or -1.
      voxel: edge in mm.
    """
    rows = []
    for i in range(3):
        step = directions[i] * voxel
        rows.append((*(step if i == j else 0.0 for j in range(3)), corner[i] + step / 2))
    return (*rows, (0.0, 0.0, 0.0, 1.0))


def affine_about_origin(
    steps: tuple[tuple[float, float, float], ...], shape: tuple[int, int, int]
) -> tuple[tuple[float, ...], ...]:
    """`data.affine` of a volume whose middle is the origin.

    Args:
      steps: in mm to the right, the front and the top, one voxel along I, along J and along K.
      shape: (I, J, K) voxels.
    """
    rows = []
    for i in range(3):
        row = [step[i] for step in steps]
        rows.append((*row, -sum(value * (n - 1) / 2 for value, n in zip(row, shape, strict=True))))
    return (*rows, (0.0, 0.0, 0.0, 1.0))
