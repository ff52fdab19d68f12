"""BraTS and LIDC-IDRI preprocessing against numbers measured on WDM's own."""

import hashlib
import re

import numpy as np
import pytest

from data_pipelines import brats, lidc, nifti
from data_pipelines.nifti import Volume
from golden_files import GoldenFile, splitmix64


@pytest.mark.golden("wdm_preprocessing", "in/brats")
@pytest.mark.parametrize("edge", [128, 256])
def test_brats_matches_the_published_preprocessing(golden, edge, tmp_path):
    source = synthetic_volume(golden.config["recipe_mri"])
    assert hashlib.sha256(source.tobytes()).hexdigest() == str(golden["in/brats/sha256"])
    path = tmp_path / "BraTS-GLI-00000-000-t1n.nii.gz"
    nifti.write(path, Volume(source, np.eye(4)), np.int16)
    volume = brats.Preprocessing((edge,) * 3)(path)
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
    volume = lidc.Preprocessing((edge,) * 3)(path)
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


def synthetic_volume(recipe: str) -> np.ndarray:
    """The int16 volume that a recipe such as "...synthetic_volume((240, 240, 155), 500, 'mri')" names."""
    i, j, k, seed, kind = re.search(r"\((\d+),\s*(\d+),\s*(\d+)\),\s*(\d+),\s*'(\w+)'", recipe).groups()
    shape, seed, step, radius = (int(i), int(j), int(k)), int(seed), 16, 4
    coarse = tuple(-(-n // step) for n in shape)
    blobs = (splitmix64(f"low-{kind}", seed, np.prod(coarse)) % np.uint64(1024)).astype(np.int64).reshape(coarse)
    for axis, n in enumerate(shape):
        blobs = np.repeat(blobs, step, axis=axis).take(range(n), axis=axis)
    for axis in range(3):
        edges = [(radius, radius) if axis == a else (0, 0) for a in range(3)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(blobs, edges, mode="edge"), 2 * radius + 1, axis)
        blobs = windows.sum(-1)
    blobs //= (2 * radius + 1) ** 3
    random = splitmix64(f"noise-{kind}", seed, np.prod(shape)).reshape(shape)
    noise = (random % np.uint64(64)).astype(np.int64)
    # Squared distances from the centre in units of the half edge, as integers over 2^20.
    x, y, z = np.ogrid[tuple(slice(n) for n in shape)]
    x2, y2, z2 = ((2 * v + 1 - n) ** 2 * 2**20 // n**2 for v, n in zip((x, y, z), shape, strict=True))
    if kind == "mri":
        inside = x2 * 100 // 64 + y2 * 100 // 81 + z2 * 100 // 72 < 2**20
        values, outside = 100 + 3 * blobs + 4 * noise, 0
        values += 6000 * ((random >> np.uint64(20)) % np.uint64(30000) == 0)
    else:
        inside = np.broadcast_to(x2 + y2 < 2**20, shape)
        values, outside = -1150 + 2 * blobs + 4 * noise, -2000
        values += 1500 * ((random >> np.uint64(20)) % np.uint64(2000) == 0)
    return np.where(inside, values, outside).astype(np.int16)
