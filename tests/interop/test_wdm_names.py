import json
import pathlib

import jax
import numpy as np
import pytest

from medjax.interop.wdm import state_dict_from_params
from medjax.interop.wdm_names import state_dict_paths
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet
from test_wdm import SMALL, WAVELET, random_state_dict, shapes_of

PUBLISHED = json.loads((pathlib.Path(__file__).parents[1] / "golden/wdm_state_dicts.json").read_text())
MULTIPLIERS = {"128": (1, 2, 2, 4, 4), "256": (1, 2, 2, 4, 4, 4)}


def published_network(name: str):
    kind = WaveletUNet if "wnet" in name else UNet
    return kind(8, channel_multipliers=MULTIPLIERS[name.rpartition("_")[2]])


@pytest.mark.parametrize("name", PUBLISHED)
def test_names_shapes_and_order_are_the_published_ones(name):
    shapes = shapes_of(published_network(name))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    state_dict = state_dict_from_params(zeros)
    found = [(name, list(array.shape)) for name, array in state_dict.items()]
    assert found == list(PUBLISHED[name]["state_dict"].items())
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PUBLISHED[name]["n_parameters"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_shared_parameters_are_the_published_ones(name):
    by_path: dict[tuple, list[str]] = {}
    for published, path in state_dict_paths(shapes_of(published_network(name))).items():
        by_path.setdefault(path, []).append(published)
    assert [names for names in by_path.values() if len(names) > 1] == PUBLISHED[name]["shared_parameters"]


def test_where_the_options_lie():
    unet = SMALL.clone(resample_blocks=False, attention_factors=(2,), middle_attention=True)
    shapes = {name: array.shape for name, array in random_state_dict(unet).items()}
    assert shapes["input_blocks.2.0.op.weight"] == (4, 4, 3, 3, 3)
    assert shapes["input_blocks.3.1.qkv.weight"] == (24, 8, 1)
    assert shapes["middle_block.1.proj_out.weight"] == (8, 8, 1)
    assert shapes["middle_block.2.in_layers.0.weight"] == (8,)
    assert shapes["output_blocks.1.1.norm.weight"] == (4,)
    assert shapes["output_blocks.1.2.conv.weight"] == (4, 4, 3, 3, 3)
    assert "output_blocks.3.0.in_layers.0.weight" in shapes
    assert "output_blocks.4.0.in_layers.0.weight" not in shapes


def test_where_the_wavelet_networks_attention_lies():
    """Behind the block whose output it attends over, shared like it; the block that resamples comes third then."""
    names = state_dict_paths(shapes_of(WAVELET.clone(attention_factors=(2,), middle_attention=True)))
    assert names["input_blocks.5.1.qkv.weight"] == ("down_1_attention_0", "qkv", "kernel")
    assert names["output_blocks.4.1.qkv.weight"] == ("up_0_attention_1", "qkv", "kernel")
    assert names["output_blocks.5.1.qkv.weight"] == ("up_0_attention_1", "qkv", "kernel")
    assert names["output_blocks.5.2.in_layers.2.bias"] == ("up_0_resample", "conv_1", "bias")
    assert names["output_blocks.2.1.in_layers.2.bias"] == ("up_1_resample", "conv_1", "bias")
    assert names["out_res.0.0.in_layers.2.bias"] == ("head_block_0", "conv_1", "bias")
