import numpy as np
import pytest
from scipy import ndimage

from case_of import case_of
from data_pipelines import brains
from data_pipelines.formats import nifti
from data_pipelines.formats.nifti import Volume
from data_pipelines.notices import Kind
from data_pipelines.readers.folder import Preprocessing

SHAPE = (32, 36, 40)
CENTRE = (15, 20, 18)
BALL = np.linalg.norm(np.indices(SHAPE).T - CENTRE, axis=-1).T <= 10
BOX = tuple(slice(c - 10, c + 11) for c in CENTRE)
RNG = np.random.default_rng(0)
BRAIN = RNG.uniform(100, 1000, SHAPE).astype(np.float32)
CLEAN = np.where(BALL, BRAIN, 0)
NOISE = RNG.normal(0, 1, SHAPE).astype(np.float32)


def with_voxel(array, value, *at):
    array = array.copy()
    array[at] = value
    return array


ODD = {
    "clean": CLEAN,
    "noise of 1e-6": np.where(BALL, BRAIN, np.abs(NOISE) * 1e-6),
    "noise of either sign": np.where(BALL, BRAIN, NOISE * 1e-3),
    "noise of a scanner": np.where(BALL, BRAIN, np.abs(NOISE) * 5),
    "whole numbers of noise": np.where(BALL, np.rint(BRAIN), np.rint(np.abs(NOISE))),
    "noise about another value": np.where(BALL, BRAIN, NOISE - 1000),
    "a corner": with_voxel(CLEAN, 500, 0, 0, 0),
    "a bright corner": with_voxel(CLEAN, 1e6, -1, -1, -1),
    "specks": np.where((np.abs(NOISE) > 2.5) & ~ndimage.binary_dilation(BALL, iterations=3), 300, CLEAN),
    "a marker": np.where(np.indices(SHAPE).max(axis=0) < 3, 2000, CLEAN),
    "standardised within": np.where(BALL, (BRAIN - 550) / 260, 0),
    "standardised within, noise": np.where(BALL, (BRAIN - 550) / 260, NOISE * 1e-5),
    "standardised within, a corner": with_voxel(np.where(BALL, (BRAIN - 550) / 260, 0), 3, 0, 0, 0),
    "standardised": (CLEAN - CLEAN.mean()) / CLEAN.std(),
}


@pytest.mark.parametrize("name", ODD)
def test_the_brain_is_found_in_whatever_background(name):
    array = ODD[name].astype(np.float32)
    found = brains.inside(array, brains.levels(array))
    assert brains.box(found, 0) == BOX
    assert np.mean(found != BALL) < 0.001


def test_all_that_is_above_0_is_brain_where_the_background_is_0():
    """However dark its rim: as the published crop has it."""
    rim = ndimage.binary_dilation(BALL, iterations=4)
    array = np.where(rim & ~BALL, np.rint(np.abs(NOISE)) + 1, np.rint(CLEAN * 4)).astype(np.float32)
    array[~rim] = np.minimum(0, np.rint(NOISE[~rim]))  # background may be below 0, too
    np.testing.assert_array_equal(brains.inside(array, brains.levels(array)), array > 0)


def test_two_halves_are_both_of_the_brain():
    array = np.where(np.indices(SHAPE)[0] == 13, 0, CLEAN)
    assert brains.box(brains.inside(array, brains.levels(array)), 2) == tuple(slice(c - 12, c + 13) for c in CENTRE)


def test_a_scan_without_background_is_all_brain():
    assert brains.inside(BRAIN, brains.levels(BRAIN)).all()


def test_a_background_in_the_middle_of_the_values_becomes_the_least():
    standardised = ODD["standardised within"].astype(np.float32)
    dark = brains.with_dark_background(standardised)
    np.testing.assert_array_equal(dark, np.where(BALL, standardised, standardised[BALL].min()))
    assert brains.with_dark_background(standardised, -5.0)[0, 0, 0] == -5
    assert brains.with_dark_background(CLEAN) is CLEAN


def cropped(path, array, **fields):
    nifti.write(path, Volume(array.astype(np.float32), np.eye(4)))
    return Preprocessing((16, 18, 20), "native", fit="brain", **fields)(case_of(path))["image"]


@pytest.mark.parametrize("spacing", [None, (1.5, 1.5, 1.5)])
@pytest.mark.parametrize("name", ODD)
def test_every_crop_is_that_of_the_clean_scan_and_its_background_black(name, spacing, tmp_path):
    clean = cropped(tmp_path / "clean.nii", CLEAN, spacing=spacing)
    odd = cropped(tmp_path / "odd.nii", ODD[name], spacing=spacing)
    np.testing.assert_allclose(odd.affine, clean.affine, atol=1e-9 if spacing is None else 3)
    assert odd.array[0, 0, 0] < -0.98 and np.mean(odd.array < -0.98) > 0.3
    (kept,) = (notice.share for notice in odd.notices if notice.kind == Kind.BRAIN)
    if spacing is None:
        assert kept == 21**3 / np.prod(SHAPE)
    else:
        assert kept < 0.35


def test_black_is_the_low_end_of_a_fixed_window(tmp_path):
    found = cropped(tmp_path / "a.nii", ODD["standardised within"], window="fixed", window_range=(-4.0, 4.0))
    assert found.array[0, 0, 0] == -1
