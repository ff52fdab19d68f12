import numpy as np
import pytest

from test_dicom import write_slice
from test_dicom_convert import convert

SHAPE = (40, 36, 14)  # rows, columns, slices
CENTRE = np.array([-10.0, -2.0, 45.0])  # mm, LPS+


def field(x, y, z):
    """Hounsfield units at points of the scanner's room, smooth over several pixels."""
    return 200 * np.sin(x / 9) + 150 * np.cos(y / 8) + 100 * np.sin(z / 7) + 3 * x


def write_tilted(folder, degrees, step=2.5, padding=None):
    """Slices as a gantry tilted about x makes them, while the table moves along z."""
    angle = np.deg2rad(degrees)
    down = np.array([0.0, np.cos(angle), -np.sin(angle)])
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for k in range(SHAPE[2]):
        place = np.array([-20.0, -15.0, 45.0 + step * (k - SHAPE[2] / 2)])
        points = place + columns[..., None] * [0.6, 0, 0] + rows[..., None] * 0.7 * down
        pixels = np.rint(field(*np.moveaxis(points, -1, 0))).astype(np.int16) + 1024
        changes = {"PixelPaddingValue": -2000} if padding else {}
        if padding:
            pixels[:, :padding] = -2000
        write_slice(
            folder / f"{k}", k, Rows=SHAPE[0], Columns=SHAPE[1], RescaleSlope=1, PixelData=pixels.tobytes(),
            ImageOrientationPatient=[1.0, 0, 0, *map(float, down)], ImagePositionPatient=list(map(float, place)),
            **changes,
        )  # fmt: skip


@pytest.mark.parametrize(("degrees", "step"), [(15, 2.5), (-15, 2.5), (5, 2.5), (15, -2.5), (-25, -2.5)])
def test_a_tilted_gantry_is_straightened(tmp_path, capsys, degrees, step):
    write_tilted(tmp_path / "s", degrees, step)
    volume = convert(tmp_path / "s")
    directions = volume.affine[:3, :3] / volume.spacing
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(volume.spacing, [0.6, 0.7, 2.5 * np.cos(np.deg2rad(degrees))])
    points = np.indices(volume.array.shape).reshape(3, -1)
    x, y, z = volume.affine[:3, :3] @ points + volume.affine[:3, 3:]
    truth = field(-x, -y, z).reshape(volume.array.shape)
    inside = volume.array > -999
    # All that was scanned is there, to the rounding of stored values and the curvature of the field within a pixel.
    assert np.abs(volume.array - truth)[inside].max() < 1
    assert inside.sum() > 0.95 * np.prod(SHAPE)
    assert set(np.unique(volume.array[~inside])) == {-1000}
    assert "tilted gantry" in capsys.readouterr().err


def test_padding_is_air_before_slices_are_moved(tmp_path):
    write_tilted(tmp_path / "s", 15, padding=5)
    array = convert(tmp_path / "s").array
    assert array.min() == -1000 and (array[:5] == -1000).all() and (array[5:] > -1000).mean() > 0.6
