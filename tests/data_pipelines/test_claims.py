import gzip
import tracemalloc

import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats import dicom, nifti, npy
from test_dicom import write_slice
from test_nifti import save

ARRAY = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
LITTLE = 2**26  # bytes


def refused(read, path, expected):
    """Sees that a file is refused in one line, and that no memory was taken for what it claims."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=expected) as raised:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        ([3, 1000, 1000, 1000, 1, 1, 1, 1], "the header claims 4000000352 bytes, 592 are there"),
        ([3, 3, 4, 6, 1, 1, 1, 1], "the header claims 640 bytes|not a readable NIfTI"),
        ([3, 32767, 32767, 32767, 1, 1, 1, 1], "the header claims 32767x32767x32767 voxels, more than 1073741824"),
    ],
)
def test_nifti_of_another_size_than_it_claims(tmp_path, suffix, dim, expected):
    refused(nifti.read, save(tmp_path / f"a{suffix}", ARRAY, dim=dim), expected)


def test_a_bomb_is_refused_before_it_goes_off(tmp_path):
    save(tmp_path / "a.nii", ARRAY, dim=[3, 2000, 2000, 2000, 1, 1, 1, 1])
    header = (tmp_path / "a.nii").read_bytes()[:352]
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header + bytes(2**25)))
    refused(nifti.read, tmp_path / "bomb.nii.gz", "2000x2000x2000 voxels, more than")
    save(tmp_path / "a.nii", ARRAY, dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])
    header = (tmp_path / "a.nii").read_bytes()[:352]
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(header + bytes(2**25)))
    refused(nifti.read, tmp_path / "short.nii.gz", f"the header claims 4000000352 bytes, {2**25 + 352} are there")


def test_what_compresses_well_is_read(tmp_path):
    array = np.zeros((64, 64, 64), np.float32)
    array[0, 0, 0] = 1
    save(tmp_path / "a.nii.gz", array)
    assert (tmp_path / "a.nii.gz").stat().st_size * 100 < array.nbytes
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii.gz").array, array)


@pytest.mark.parametrize("shape", [(1000, 1000, 1000), (2**31, 2**31, 2**31), (2**40, 2**40, 2)])
def test_npy_of_another_size_than_it_claims(tmp_path, shape):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": "<f4"})
        file.write(bytes(1000))
    refused(npy.read, tmp_path / "a.npy", "not a readable .npy file")


def test_npy_too_large_to_be_a_scan(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": (1025, 1024, 1024), "fortran_order": False, "descr": "|i1"}
        )
        file.truncate(2**31)  # takes no room on the disk
    refused(npy.read, tmp_path / "a.npy", "1025x1024x1024 voxels, more than")


def test_slices_too_large_to_be_a_scan(tmp_path):
    for k in range(3):
        write_slice(tmp_path / f"{k}.dcm", k, Rows=65535, Columns=65535)
    refused(dicom.read_series, tmp_path, "65535x65535x")
