"""Haar transforms against the reference: bands stacked as [B, C, 8, D, H, W]."""

import jax
import numpy as np
import pytest

from comparison import assert_close
from golden_files import channels_last
from medjax.wavelets import haar_dwt3d, haar_idwt3d


def bands_last(bands: np.ndarray) -> np.ndarray:
    """[B, C, 8, D, H, W] to [B, D, H, W, 8, C]."""
    return bands.transpose(0, 3, 4, 5, 2, 1)


@pytest.mark.golden("haar", "in/x", "out/bands")
def test_transform(golden):
    assert_close(haar_dwt3d(channels_last(golden["in/x"])), bands_last(golden["out/bands"]))


@pytest.mark.golden("haar", "in/idwt_bands", "out/idwt")
def test_inverse(golden):
    assert_close(haar_idwt3d(bands_last(golden["in/idwt_bands"])), channels_last(golden["out/idwt"]))


@pytest.mark.golden("haar", "in/x", "out/roundtrip")
def test_round_trip(golden):
    assert_close(haar_idwt3d(haar_dwt3d(channels_last(golden["in/x"]))), channels_last(golden["out/roundtrip"]))


@pytest.mark.golden("haar", "in/x", "in/grad_bands", "out/grad_x")
def test_gradient_of_the_transform(golden):
    _, pullback = jax.vjp(haar_dwt3d, channels_last(golden["in/x"]))
    assert_close(pullback(bands_last(golden["in/grad_bands"]))[0], channels_last(golden["out/grad_x"]))


@pytest.mark.golden("haar", "in/idwt_bands", "in/grad_idwt", "out/grad_idwt_bands")
def test_gradient_of_the_inverse(golden):
    _, pullback = jax.vjp(haar_idwt3d, bands_last(golden["in/idwt_bands"]))
    assert_close(pullback(channels_last(golden["in/grad_idwt"]))[0], bands_last(golden["out/grad_idwt_bands"]))
