import jax.numpy as jnp
import pytest

from configs import brats, medical_diffusion
from medjax.errors import UserError
from medjax.models.factorized_unet import FactorizedUNet
from medjax.models.unet import UNet
from medjax.models.wavelet_unet import WaveletUNet
from medjax.tasks.diffusion_choices import make_conditions
from medjax.tasks.networks import make_network, remat_resolutions


def network(variants, **changes):
    config = brats.get_config(variants)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return make_network(config, out_channels=8, size=tuple(edge // 2 for edge in config.data.size))


def test_each_network_gets_its_options():
    attention = {"model__attention_factors": (2,), "model__up_attention_heads": 2, "model__qkv_order": "qkv_first"}
    unet = network("tiny", model__skip="concat", model__keep_depth=True, **attention)
    wavelet = network("tiny,wavunet", model__attention_head_channels=4, **attention)
    assert (type(unet), type(wavelet)) == (UNet, WaveletUNet)
    assert (unet.skip, unet.keep_depth, wavelet.attention_head_channels) == ("concat", True, 4)
    for each in (unet, wavelet):
        assert (each.attention_factors, each.up_attention_heads, each.qkv_order) == ((2,), 2, "qkv_first")
        assert (each.base_channels, each.channel_multipliers, each.groups, each.out_channels) == (8, (1, 2), 4, 8)


def test_the_factorised_network_gets_its_options():
    config = medical_diffusion.get_config("adni,ddpm,bf16")
    config.train.remat = "above:8"  # an edge in H and W: D is the same at every level
    config.model.update({"classes": 3, "spatial_attention": "none", "first_kernel": 5, "attention_head_channels": 16})
    network = make_network(config, out_channels=8, size=(32, 16, 16), conditions=make_conditions(config))
    assert type(network) is FactorizedUNet
    assert (network.base_channels, network.channel_multipliers, network.groups) == (32, (1, 2, 4, 8), 8)
    assert (network.conditions[0].classes, network.spatial_attention, network.depth_attention) == (3, "none", True)
    assert (network.first_kernel, network.attention_heads, network.attention_head_channels) == (5, 8, 16)
    assert (network.remat, network.dtype) == ((True, False, False, False), jnp.bfloat16)


def test_the_wavelet_network_has_one_resolution_more():
    assert network("tiny", train__remat="above:8").remat == (True, False)
    assert network("tiny,wavunet", train__remat="above:8").remat == (True, False, False)
    assert network("tiny,wavunet,bf16").remat == (True, True, True)


@pytest.mark.parametrize(
    ("variants", "key", "value", "message"),
    [
        ("tiny,wavunet", "model__skip", "concat", "model.skip is 'concat': the wavelet U-Net"),
        ("tiny,wavunet", "model__resample_blocks", False, "model.resample_blocks is False"),
        ("tiny,wavunet", "model__keep_depth", True, "model.keep_depth is True"),
        ("tiny,wavunet", "model__position_channels", 4, "model.position_channels is 4"),
        ("tiny,wavunet", "model__blocks_per_level", 1, "model.blocks_per_level is 1: wavelet_unet needs 2"),
        ("tiny", "model__blocks_per_level", 0, "model.blocks_per_level is 0: unet needs 1"),
        ("tiny", "model__qkv_order", "vkq", "model.qkv_order is 'vkq': use 'heads_first' or 'qkv_first'"),
    ],
)
def test_what_cannot_work_names_its_key(variants, key, value, message):
    with pytest.raises(UserError, match=message):
        network(variants, **{key: value})


def test_remat_resolutions():
    assert remat_resolutions("none", 64, 2) == (False, False)
    assert remat_resolutions("above:16", 64, 4) == (True, True, False, False)
    with pytest.raises(UserError, match="train.remat is 'above'"):
        remat_resolutions("above", 64, 2)
