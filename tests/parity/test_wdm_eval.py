"""What WDM is judged by: MedicalNet's features and the Frechet distance."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from comparison import assert_close
from golden_files import GoldenFile, channels_last, recipe_weight
from medjax.interop.resnet import name_of, params_from_state_dict, torch_shape
from medjax.metrics.frechet import frechet_distance
from medjax.models.medicalnet import ResNet


def shapes_of(x: np.ndarray):
    return jax.eval_shape(ResNet().init, jax.random.key(0), jax.ShapeDtypeStruct(x.shape, jnp.float32))["params"]


def state_dict(golden: GoldenFile, like) -> dict[str, np.ndarray]:
    """Every tensor by its recipe, as the file's checksums say."""
    seed = golden.config["seed"]
    shapes = {name_of(path): torch_shape(leaf.shape) for path, leaf in traverse_util.flatten_dict(like).items()}
    arrays = {name: recipe_weight(name, shape, seed) for name, shape in shapes.items()} | golden.weights
    if "w_sha256/names" in golden:
        for name, digest in zip(golden["w_sha256/names"].tolist(), golden["w_sha256/sha256"].tolist(), strict=True):
            assert hashlib.sha256(arrays[name].tobytes()).hexdigest() == digest, name
    return {name: array for name, array in arrays.items() if name in shapes}


@pytest.mark.golden("wdm_eval", "in/x", "out/features")
def test_features(golden):
    x = channels_last(golden["in/x"])
    like = shapes_of(x)
    if "out/n_params" in golden:
        trained = [p for p, _ in traverse_util.flatten_dict(like).items() if p[-1] not in ("mean", "var")]
        flat = traverse_util.flatten_dict(like)
        assert sum(flat[path].size for path in trained) == golden["out/n_params"]
    params = params_from_state_dict(state_dict(golden, like), like)
    features, seen = jax.jit(lambda p, x: ResNet().apply({"params": p}, x, mutable="intermediates"))(params, x)
    for stage in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
        (activation,) = seen["intermediates"][stage]
        if f"act/{stage}" in golden:
            expected = channels_last(golden[f"act/{stage}"])
            # Every 64th channel was kept.
            assert_close(activation[0][..., ::64], expected, name=stage)
    if "out/features" in golden:
        assert_close(features, golden["out/features"])


@pytest.mark.golden("wdm_eval", "in/frechet/")
def test_frechet_distance(golden):
    for case in {key.split("/")[2] for key in golden.keys("in/frechet/")}:
        a, b = (golden[f"in/frechet/{case}/{name}"] for name in "ab")
        expected = golden[f"out/frechet/{case}/fid_eig"]
        np.testing.assert_allclose(
            frechet_distance(a, b), expected, rtol=1e-7, err_msg=case
        )  # theirs takes the roots of rounded zeros
        np.testing.assert_allclose(frechet_distance(a, a), 0, atol=1e-9)
