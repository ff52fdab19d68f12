import numpy as np
import pytest

from test_dicom import COLUMNS, ROWS, SLICES, stored, write_slice
from test_dicom_convert import VOLUME, convert

CORNER = np.zeros((ROWS, COLUMNS), bool)
CORNER[:2, :3] = True


def padded(tmp_path, value, dtype=np.int16, second=None, **changes):
    """A series with `value` in a corner of each slice, and `second` in one pixel of that."""
    for k in range(SLICES):
        pixels = stored(k).astype(dtype)
        pixels[CORNER] = value
        if second is not None:
            pixels[0, 0] = second
        write_slice(tmp_path / f"s/{k}", k, PixelData=pixels.tobytes(), **changes)
    return convert(tmp_path / "s").array


def expected(air):
    volume = VOLUME.copy()
    volume[CORNER.T] = air
    return volume


@pytest.mark.parametrize(
    ("value", "dtype", "changes"),
    [
        (-2000, np.int16, {"PixelPaddingValue": -2000}),
        (63536, np.uint16, {"PixelPaddingValue": 63536, "PixelRepresentation": 0}),
    ],
)
def test_padding_of_a_ct_is_air_and_its_share_is_told(tmp_path, capsys, value, dtype, changes):
    np.testing.assert_array_equal(padded(tmp_path, value, dtype, **changes), expected(-1000))
    (line,) = capsys.readouterr().err.splitlines()
    assert "12.5 % of the voxels are padding (PixelPaddingValue), set to -1000" in line


def test_a_range_of_padding_values(tmp_path):
    array = padded(tmp_path, -2000, second=-1990, PixelPaddingValue=-2000, PixelPaddingRangeLimit=-1990)
    np.testing.assert_array_equal(array, expected(-1000))


def test_padding_of_an_mr_is_the_least_other_value(tmp_path):
    array = padded(tmp_path, -2000, Modality="MR", PixelPaddingValue=-2000)
    np.testing.assert_array_equal(array, expected(VOLUME[~CORNER.T].min()))


def test_a_padding_value_within_the_measured_ones_is_left_and_told(tmp_path, capsys):
    array = padded(tmp_path, 1200, PixelPaddingValue=1200)
    np.testing.assert_array_equal(array, expected(2 * 1200 - 1024))
    assert "lies among the measured values" in capsys.readouterr().err


@pytest.mark.parametrize("changes", [{}, {"PixelPaddingValue": ""}, {"PixelPaddingValue": -3000}])
def test_without_padding_nothing_is_changed_or_told(tmp_path, capsys, changes):
    np.testing.assert_array_equal(padded(tmp_path, -2000, **changes), expected(2 * -2000 - 1024))
    assert capsys.readouterr().err == ""
