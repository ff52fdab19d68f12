import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.interop import perceptual
from medjax.interop.torch_save import save_state_dict
from medjax.models.perceptual import CONVOLUTIONS, LPIPS, WIDTHS


@pytest.fixture(scope="module")
def state_dict() -> dict[str, np.ndarray]:
    """Both files' tensors, every one filled with a number of its own, and what torchvision's has besides."""
    shapes, channels = {"classifier.0.weight": (2, 3)}, 3
    for places, width in zip(perceptual.PLACES, perceptual.WIDTHS, strict=True):
        for place in places:
            shapes |= {f"features.{place}.weight": (width, channels, 3, 3), f"features.{place}.bias": (width,)}
            channels = width
    for i, width in enumerate(perceptual.WIDTHS):
        shapes[f"lin{i}.model.1.weight"] = (1, width, 1, 1)
    return {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}


def test_every_parameter_of_the_network_is_there(state_dict):
    assert WIDTHS == perceptual.WIDTHS
    assert tuple(map(len, perceptual.PLACES)) == CONVOLUTIONS
    found = perceptual.to_params(state_dict)
    slices = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32)
    expected = jax.eval_shape(LPIPS().init, jax.random.key(0), slices, slices)["params"]
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, expected)
    assert found["vgg"]["conv_2_1"]["kernel"].flat[0] == state_dict["features.12.weight"].flat[0]
    assert found["linear_3"][0] == state_dict["lin3.model.1.weight"].flat[0]


def test_kernels_are_turned(state_dict):
    kernel = np.random.default_rng(0).standard_normal((64, 3, 3, 3)).astype("f4")
    found = perceptual.to_params(state_dict | {"features.0.weight": kernel})["vgg"]["conv_0_0"]["kernel"]
    assert found[2, 1, 0, 5] == kernel[5, 0, 2, 1]


def test_one_file_or_two(state_dict, tmp_path):
    linear = {name: array for name, array in state_dict.items() if name.startswith("lin")}
    vgg = {name: array for name, array in state_dict.items() if name not in linear}
    for name, tensors in (("both", state_dict), ("vgg", vgg), ("linear", linear)):
        save_state_dict(tmp_path / f"{name}.pt", tensors)
    one = perceptual.load_perceptual(f"{tmp_path}/both.pt")
    two = perceptual.load_perceptual(f"{tmp_path}/vgg.pt, {tmp_path}/linear.pt")
    jax.tree.map(np.testing.assert_array_equal, one, two)
    with pytest.raises(UserError, match=r"losses.perceptual_weights=.*vgg.pt: no lin0.model.1.weight"):
        perceptual.load_perceptual(f"{tmp_path}/vgg.pt")
    with pytest.raises(UserError, match=r"nothing.pt: there is no such file"):
        perceptual.load_perceptual(f"{tmp_path}/nothing.pt")


def test_another_networks_weights_are_refused(state_dict):
    odd = state_dict | {"features.5.weight": np.zeros((128, 64, 5, 5), np.float32)}
    with pytest.raises(ValueError, match=r"features.5.weight is \(128, 64, 5, 5\), not \(128, 64, 3, 3\)"):
        perceptual.to_params(odd)
