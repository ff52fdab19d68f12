"""LPIPS on slices, by layer and whole."""

import jax
import numpy as np
import pytest

from comparison import assert_close
from medical_models import lpips_of
from medjax.models.perceptual import LPIPS


def slices(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 1, -1)


@pytest.mark.golden("medical_lpips", "in/x")
def test_distances_and_activations(golden):
    params = lpips_of(golden)
    x, y = slices(golden["in/x"]), slices(golden["in/y"])
    distances, captured = jax.jit(lambda params: LPIPS().apply({"params": params}, x, y, capture_intermediates=True))(
        params
    )
    if "out/lpips" in golden:
        assert_close(distances, golden["out/lpips"].reshape(-1))
    for block, features in enumerate(captured["intermediates"]["vgg"]["__call__"][0]):
        if (key := f"act/relu{block + 1}") in golden:
            found = np.moveaxis(features, -1, 1)
            if f"{key}_shape" in golden:
                assert found.shape == tuple(golden[f"{key}_shape"])
            expected = golden[key]
            assert_close(found[0, :: found.shape[1] // len(expected)], expected, name=key)


def by_layer(params, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The distances of single layers: with the weights of the others zero."""
    names = [name for name in params if name.startswith("linear")]
    apply = jax.jit(LPIPS().apply)
    zeros = {name: np.zeros_like(params[name]) for name in names}
    return np.stack([apply({"params": params | zeros | {name: params[name]}}, x, y) for name in names])


@pytest.mark.golden("medical_lpips", "out/per_layer")
def test_layers(golden):
    found = by_layer(lpips_of(golden), slices(golden["in/x"]), slices(golden["in/y"]))
    assert_close(found, golden["out/per_layer"])
