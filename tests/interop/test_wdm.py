import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.interop.wdm import params_from_state_dict, state_dict_from_params
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet

SMALL = UNet(out_channels=8, base_channels=4, channel_multipliers=(1, 2), blocks_per_level=1, groups=2)
WAVELET = WaveletUNet(out_channels=8, base_channels=4, channel_multipliers=(1, 2), blocks_per_level=2, groups=2)


def shapes_of(network):
    x_t = np.zeros((1, 64, 64, 64, 8), np.float32)
    return jax.eval_shape(network.init, jax.random.key(0), x_t, np.zeros(1))["params"]


def random_state_dict(network) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), shapes_of(network))
    return state_dict_from_params(params)


@pytest.mark.parametrize(
    "network",
    [
        SMALL,
        SMALL.clone(skip="concat", attention_factors=(1, 2), middle_attention=True),
        SMALL.clone(resample_blocks=False, scale_shift_norm=True, attention_factors=(2,)),
        WAVELET,
        WAVELET.clone(blocks_per_level=3, attention_factors=(2, 4), middle_attention=True),
    ],
    ids=["published", "attention", "convolutions", "wavelet", "wavelet attention"],
)
def test_there_and_back(network):
    state_dict = random_state_dict(network)
    params = params_from_state_dict(state_dict, shapes_of(network))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes_of(network))
    again = state_dict_from_params(params)
    assert list(again) == list(state_dict)
    assert all((again[name] == state_dict[name]).all() for name in state_dict)


def test_layouts():
    state_dict = random_state_dict(SMALL.clone(attention_factors=(2,)))
    params = params_from_state_dict(state_dict, shapes_of(SMALL.clone(attention_factors=(2,))))
    kernel = state_dict["input_blocks.0.0.weight"]
    assert kernel.shape == (4, 8, 3, 3, 3)
    assert params["input_conv"]["kernel"][0, 1, 2, 5, 3] == kernel[3, 5, 0, 1, 2]
    linear = state_dict["time_embed.0.weight"]
    assert params["time_embedding"]["hidden"]["kernel"][1, 7] == linear[7, 1]
    qkv = state_dict["input_blocks.3.1.qkv.weight"]
    assert params["down_1_attention_0"]["qkv"]["kernel"][5, 17] == qkv[17, 5, 0]


def test_a_shared_parameter_is_one_array_of_two_names():
    state_dict = random_state_dict(WAVELET)
    names = [f"output_blocks.{number}.0.in_layers.2.weight" for number in (1, 2)]
    assert state_dict[names[0]] is state_dict[names[1]]
    state_dict[names[1]] = state_dict[names[0]] + 1
    with pytest.raises(
        ValueError, match=r"second names that differ .*: output_blocks\.2\.0\.in_layers\.2\.weight\. Is"
    ):
        params_from_state_dict(state_dict, shapes_of(WAVELET))


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float64])
def test_other_floats_become_float32(dtype):
    state_dict = {name: array.astype(dtype) for name, array in random_state_dict(SMALL).items()}
    params = params_from_state_dict(state_dict, shapes_of(SMALL))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["head_norm"]["scale"], state_dict["out.0.weight"].astype(np.float32))


def test_names_what_does_not_fit():
    shapes, state_dict = shapes_of(SMALL), random_state_dict(SMALL)
    lacking = {name: array for name, array in state_dict.items() if not name.startswith("out.")}
    with pytest.raises(ValueError, match=r"dict lacks: out\.0\.weight, out\.0\.bias, out\.2\.weight and 1 more\. Is"):
        params_from_state_dict(lacking, shapes)
    with pytest.raises(ValueError, match=r"dict has too many: label_emb\.weight\. Is"):
        params_from_state_dict(state_dict | {"label_emb.weight": np.zeros((2, 16))}, shapes)
    for wrong in (np.zeros((8, 4, 3, 3)), np.zeros((8, 5, 3, 3, 3)), np.zeros((3, 3, 3, 4, 8)), np.zeros(864)):
        with pytest.raises(ValueError, match=r"other shapes: out\.2\.weight \(.*\) for \(8, 4, 3, 3, 3\)\. Is"):
            params_from_state_dict(state_dict | {"out.2.weight": wrong}, shapes)
    with pytest.raises(ValueError, match=r"no floats: out\.2\.bias int64\. Is"):
        params_from_state_dict(state_dict | {"out.2.bias": np.zeros(8, np.int64)}, shapes)
    with pytest.raises(
        ValueError, match=r"lacks: out.*; has too many: x; has other shapes: time_embed\.0\.bias \(1,\)"
    ):
        params_from_state_dict(lacking | {"x": np.zeros(1), "time_embed.0.bias": np.zeros(1)}, shapes)


def test_a_parameter_that_pytorch_has_not_is_named():
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape), shapes_of(SMALL.clone(position_channels=2)))
    with pytest.raises(ValueError, match="no position"):
        state_dict_from_params(params)
