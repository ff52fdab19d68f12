import json
from pathlib import Path

import jax
import numpy as np
import pytest

from medjax.interop.wdm import params_from_state_dict, state_dict_from_params, state_dict_names
from medjax.models.unet import UNet

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden/wdm_state_dicts.json").read_text())
SMALL = UNet(8, base_channels=4, channel_multipliers=(1, 2), blocks_per_level=1, groups=2)


def shapes_of(unet: UNet):
    x_t = np.zeros((1, 32, 32, 32, 8), np.float32)
    return jax.eval_shape(unet.init, jax.random.key(0), x_t, np.zeros(1))["params"]


def random_state_dict(unet: UNet) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape).astype(np.float32), shapes_of(unet))
    return state_dict_from_params(params)


@pytest.mark.parametrize(
    ("name", "multipliers"), [("ours_unet_128", (1, 2, 2, 4, 4)), ("ours_unet_256", (1, 2, 2, 4, 4, 4))]
)
def test_names_shapes_and_order_are_the_published_ones(name, multipliers):
    shapes = shapes_of(UNet(8, channel_multipliers=multipliers))
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    state_dict = state_dict_from_params(zeros)
    assert [(name, list(array.shape)) for name, array in state_dict.items()] == list(
        PUBLISHED[name]["state_dict"].items()
    )
    assert sum(array.size for array in state_dict.values()) == PUBLISHED[name]["n_parameters"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skip": "concat", "attention_factors": (1, 2), "middle_attention": True},
        {"resample_blocks": False, "scale_shift_norm": True, "attention_factors": (2,)},
    ],
    ids=["published", "attention", "convolutions"],
)
def test_there_and_back(options):
    unet = SMALL.clone(**options)
    state_dict = random_state_dict(unet)
    params = params_from_state_dict(state_dict, shapes_of(unet))
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, shapes_of(unet))
    again = state_dict_from_params(params)
    assert list(again) == list(state_dict)
    assert all((again[name] == state_dict[name]).all() for name in state_dict)


def test_layouts():
    state_dict = random_state_dict(SMALL)
    params = params_from_state_dict(state_dict, shapes_of(SMALL))
    kernel = state_dict["input_blocks.0.0.weight"]
    assert kernel.shape == (4, 8, 3, 3, 3)
    assert params["input_conv"]["kernel"][0, 1, 2, 5, 3] == kernel[3, 5, 0, 1, 2]
    linear = state_dict["time_embed.0.weight"]
    assert params["time_embedding"]["hidden"]["kernel"][1, 7] == linear[7, 1]


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


def test_every_parameter_has_one_name():
    names = state_dict_names(shapes_of(SMALL))
    assert len(set(names.values())) == len(names) == len(jax.tree.leaves(shapes_of(SMALL)))


def test_names_what_does_not_fit():
    shapes, state_dict = shapes_of(SMALL), random_state_dict(SMALL)
    lacking = {name: array for name, array in state_dict.items() if not name.startswith("out.2.")}
    with pytest.raises(ValueError, match=r"lacks out\.2\.bias and 1 more"):
        params_from_state_dict(lacking, shapes)
    with pytest.raises(ValueError, match=r"has, and this U-Net has not, label_emb\.weight:"):
        params_from_state_dict(state_dict | {"label_emb.weight": np.zeros((2, 16))}, shapes)
    for wrong in (np.zeros((8, 4, 3, 3)), np.zeros((8, 5, 3, 3, 3)), np.zeros(8)):
        with pytest.raises(ValueError, match=r"out\.2\.weight of shape .*head_conv/kernel \(3, 3, 3, 4, 8\)"):
            params_from_state_dict(state_dict | {"out.2.weight": wrong}, shapes)
