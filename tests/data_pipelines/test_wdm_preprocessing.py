"""BraTS and LIDC-IDRI preprocessing against numbers measured on WDM's own."""

import hashlib

import numpy as np
import pytest

from case_of import case_of
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.readers import brats, lidc
from golden_files import GoldenFile
from synthetic_volumes import synthetic_volume


@pytest.mark.golden("wdm_preprocessing", "in/brats")
@pytest.mark.parametrize("edge", [128, 256])
def test_brats_matches_the_published_preprocessing(golden, edge, tmp_path):
    source = synthetic_volume(golden.config["recipe_mri"])
    assert hashlib.sha256(source.tobytes()).hexdigest() == str(golden["in/brats/sha256"])
    path = tmp_path / "BraTS-GLI-00000-000-t1n.nii.gz"
    nifti.write(path, Volume(source, np.eye(4)), np.int16)
    volume = brats.Preprocessing((edge,) * 3)(case_of(path))["image"]
    expect(golden, f"brats_train_{edge}", volume.array)
    expect(golden, f"brats_real_{edge}", (volume.array + 1) / 2)
    # Voxel (8, 8, 50) of the padded 256^3 grid is the file's first.
    pooling = 256 // edge
    first = np.linalg.inv(volume.affine) @ [0, 0, 0, 1]
    np.testing.assert_allclose(pooling * first[:3] + (pooling - 1) / 2, [8, 8, 50])


@pytest.mark.golden("wdm_preprocessing", "in/ct")
@pytest.mark.parametrize("edge", [128, 256])
def test_lidc_matches_the_published_preprocessing(golden, edge, tmp_path):
    source = synthetic_volume(golden.config["recipe_ct"])
    assert hashlib.sha256(source.tobytes()).hexdigest() == str(golden["in/ct/sha256"])
    path = tmp_path / "LIDC-IDRI-0001.nii.gz"
    nifti.write(path, Volume(source, np.diag([*golden.config["ct_voxel"], 1])), np.int16)
    volume = lidc.Preprocessing((edge,) * 3)(case_of(path))["image"]
    expect(golden, f"lidc_train_{edge}", volume.array)
    if edge == 256:
        expect(golden, "lidc_processed", (volume.array + 1) / 2)


@pytest.mark.golden("wdm_preprocessing", "out/zoom_small")
def test_zoom_matches_scipy(golden):
    source, expected = golden["in/zoom_small"].astype(np.float32), golden["out/zoom_small"]
    spacing = np.divide(expected.shape, source.shape)
    zoomed = lidc.zoom(Volume(source, np.diag([*spacing, 1.0])), (1.0, 1.0, 1.0))
    np.testing.assert_allclose(zoomed.array, expected, rtol=0, atol=1e-3)  # of values up to 2500


def expect(golden: GoldenFile, key: str, array: np.ndarray) -> None:
    """Compares with whatever the file keeps of an array: samples, a patch, profiles and statistics."""
    note = next((note for note in golden.config["arrays"] if note["key"] == key), None)
    if note is None:
        return
    stride, size = note["stride"], note["patch_size"]
    patch = array[tuple(slice(start, start + size) for start in note["patch_start"])]
    found = {
        f"strided{stride}": array[::stride, ::stride, ::stride],
        "patch": patch,
        "stats": [array.mean(dtype=np.float64), array.std(dtype=np.float64), array.min(), array.max()],
    }
    found |= {f"mean_profile_axis{axis}": array.mean(tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3)}
    compared = 0
    for name, values in found.items():
        if f"out/{key}/{name}" in golden:
            np.testing.assert_allclose(values, golden[f"out/{key}/{name}"], rtol=0, atol=2e-5, err_msg=f"{key} {name}")
            compared += 1
    assert compared
