import json
from pathlib import Path

import jax
import numpy as np
import pytest

from medjax.interop.medical_ddpm import network_of_milestone, to_params, to_state_dict
from medjax.layers.conditions import Condition
from medjax.models.factorized_unet import FactorizedUNet

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "medical_state_dicts.json").read_text())
CLASSES = (Condition("class", "class", 2),)
SMALL = FactorizedUNet(8, 4, (1, 2), groups=2, attention_heads=2, attention_head_channels=6, first_kernel=3)


def shapes_of(network):
    x_t = np.zeros((1, 2, 8, 8, 8), np.float32)
    return jax.eval_shape(network.init, jax.random.key(0), x_t, np.zeros(1))["params"]


def random_state_dict(network) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), shapes_of(network))
    return to_state_dict(params)


@pytest.mark.parametrize("width", [16, 32])
def test_the_published_names_and_shapes_in_their_order(width):
    state_dict = random_state_dict(FactorizedUNet(8, width))
    found = {name: list(array.shape) for name, array in state_dict.items()}
    expected = dict(PUBLISHED[f"unet3d_dim{width}"]["state_dict"])
    assert list(found.items()) == list(expected.items())


def test_a_milestone_holds_the_network_beside_other_things():
    milestone = dict(PUBLISHED["gaussian_diffusion_unet3d_dim32"]["state_dict"]) | {"vqgan.codebook.N": [4]}
    network = network_of_milestone({name: np.zeros(1) for name in milestone})
    assert list(network) == list(dict(PUBLISHED["unet3d_dim32"]["state_dict"]))


@pytest.mark.parametrize("network", [SMALL, SMALL.clone(spatial_attention="none", channel_multipliers=(2,))])
def test_there_and_back(network):
    state_dict = random_state_dict(network)
    params = to_params(state_dict, shapes_of(network))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes_of(network))
    again = to_state_dict(params)
    assert list(again) == list(state_dict)
    assert all((again[name] == state_dict[name]).all() for name in state_dict)


def test_layouts():
    state_dict = random_state_dict(SMALL)
    params = to_params(state_dict, shapes_of(SMALL))
    first = state_dict["init_conv.weight"]
    assert params["input_conv"]["kernel"][0, 1, 2, 5, 3] == first[3, 5, 0, 1, 2]
    up = state_dict["ups.0.4.weight"]
    assert params["up_1_resample"]["kernel"][0, 1, 2, 3, 0] == up[3, 0, 0, 1, 2]
    linear = state_dict["downs.1.2.fn.fn.to_qkv.weight"]
    assert params["down_1_slice_attention"]["qkv"]["kernel"][5, 17] == linear[17, 5, 0, 0]
    depth = state_dict["ups.1.3.fn.fn.fn.to_out.weight"]
    assert params["up_0_depth_attention"]["output"]["kernel"][7, 2] == depth[2, 7]
    bias = state_dict["time_rel_pos_bias.relative_attention_bias.weight"]
    assert params["depth_bias"]["table"][9, 1] == bias[9, 1]


def test_names_what_does_not_fit():
    shapes, state_dict = shapes_of(SMALL), random_state_dict(SMALL)
    lacking = {name: array for name, array in state_dict.items() if not name.startswith("final_conv.1")}
    with pytest.raises(ValueError, match=r"dict lacks: final_conv\.1\.weight, final_conv\.1\.bias\. Is"):
        to_params(lacking, shapes)
    with pytest.raises(ValueError, match=r"dict has too many: null_cond_emb\. Is"):
        to_params(state_dict | {"null_cond_emb": np.zeros((1, 4), np.float32)}, shapes)
    transposed = state_dict["downs.0.4.weight"].swapaxes(0, 2)
    with pytest.raises(ValueError, match=r"other shapes: downs\.0\.4\.weight \(1, 4, 4, 4, 4\) for \(4, 4, 1, 4, 4\)"):
        to_params(state_dict | {"downs.0.4.weight": transposed}, shapes)
    other = {name: 2 * array if "rotary" in name else array for name, array in state_dict.items()}
    with pytest.raises(ValueError, match=r"init_temporal_attn.*freqs are not 10000"):
        to_params(other, shapes)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SMALL.clone(conditions=CLASSES), "no label_embedding/table"),
        (SMALL.clone(depth_attention=False), "this one has none"),
    ],
)
def test_what_the_published_network_has_not_is_named(network, message):
    with pytest.raises(ValueError, match=message):
        to_state_dict(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes_of(network)))
