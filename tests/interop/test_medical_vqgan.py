import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.interop.medical_vqgan import state_dict_paths, to_params, to_state_dict
from medjax.models.discriminators import PatchDiscriminator
from medjax.models.vqgan import Decoder, Encoder
from medjax.tasks.adversarial import Adversary
from medjax.tasks.autoencoder import Autoencoder
from medjax.tasks.bottlenecks.codebook import Codebook


def shapes_of(norm: str):
    options = {"base_channels": 4, "groups": 2, "downsample": (4, 2, 1), "norm": norm}
    networks = Encoder(out_channels=3, **options), Codebook(3, codes=5), Decoder(**options), PatchDiscriminator(4, 1)
    task = Autoencoder(*networks, Adversary(), size=(8, 8, 8))
    return jax.eval_shape(task.init, jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 8, 1))})


@pytest.fixture(params=["group", "batch"])
def state(request):
    shapes, rng = shapes_of(request.param), np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(rng.standard_normal(leaf.shape), leaf.dtype), shapes)


def test_there_and_back(state):
    state_dict = to_state_dict(*state)
    found = to_params(state_dict | {"perceptual_model.lin0.model.1.weight": np.zeros(3)}, *state)
    state[1]["codebook"]["initialized"] = np.array(True)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, found, state)


def test_layout(state):
    params, state_dict = state[0], to_state_dict(*state)
    up = params["generator"]["decoder"]["up_0_conv"]["kernel"]
    assert state_dict["decoder.conv_blocks.0.up.convt.weight"][5, 1, 3, 2, 0] == up[3, 2, 0, 5, 1]
    down = params["generator"]["encoder"]["down_0_conv"]["kernel"]
    assert state_dict["encoder.conv_blocks.0.down.conv.weight"][5, 1, 3, 2, 0] == down[3, 2, 0, 1, 5]
    patch = params["discriminator"]["image"]["conv_1"]["kernel"]
    assert state_dict["image_discriminator.model1.0.weight"][5, 1, 3, 2] == patch[3, 2, 1, 5]
    counters = [name for name in state_dict if name.endswith("num_batches_tracked")]
    assert counters and all(state_dict[name].dtype == np.int64 for name in counters)
    assert ("encoder.final_block.0.running_var" in state_dict) == ("encoder" in state[1]["batch_stats"])


def test_refuses(state):
    state_dict = to_state_dict(*state)
    short = {name: array for name, array in state_dict.items() if name != "codebook.N"}
    with pytest.raises(ValueError, match="lacks: codebook.N"):
        to_params(short, *state)
    with pytest.raises(ValueError, match="has too many: codebook.extra"):
        to_params(state_dict | {"codebook.extra": np.zeros(2, np.float32)}, *state)
    strange = {**state[0], "generator": {**state[0]["generator"], "third": {"kernel": np.zeros(3)}}}
    with pytest.raises(ValueError, match="no params/generator/third/kernel"):
        state_dict_paths(strange, state[1])


def test_an_autoencoder_without_a_codebook_is_refused(state):
    params, variables = state
    without = {name: values for name, values in variables.items() if name != "codebook"}
    with pytest.raises(ValueError, match="has a codebook, and this autoencoder none"):
        to_state_dict(params, without)
    with pytest.raises(ValueError, match="has a codebook, and this autoencoder none"):
        to_params(to_state_dict(*state), params, without)
