import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats import npy

ARRAY = np.arange(24).reshape(2, 3, 4)


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4), (2, 3, 4, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float64])
def test_one_volume_of_numbers(tmp_path, shape, dtype):
    np.save(tmp_path / "a.npy", ARRAY.reshape(shape).astype(dtype))
    array = npy.read(tmp_path / "a.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, ARRAY)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.arange(6.0).reshape(2, 3), "float64 of shape \\(2, 3\\) is not a 3D volume"),
        (np.zeros((2, 2, 3, 4)), "is not a 3D volume"),
        (ARRAY.astype(complex), "complex128 of shape"),
        (np.array([{}]), "not a readable .npy file"),
        (np.full((2, 2, 2), 3.0), "every voxel is 3"),
        (np.where(ARRAY == 5, np.nan, ARRAY), "1 of 24 voxels are NaN"),
    ],
)
def test_other_arrays(tmp_path, array, expected):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=expected) as raised:
        npy.read(tmp_path / "a.npy")
    assert str(raised.value).startswith(f"{tmp_path}/a.npy: ") and "\n" not in str(raised.value)


def test_other_files(tmp_path):
    np.savez(tmp_path / "several.npy.npz", ARRAY)
    (tmp_path / "several.npy.npz").rename(tmp_path / "several.npy")
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "empty.npy").touch()
    for name in ("several", "text", "empty", "missing"):
        with pytest.raises(DataError, match=f"{name}.npy: "):
            npy.read(tmp_path / f"{name}.npy")
