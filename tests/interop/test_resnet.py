import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from medjax.interop.resnet import architecture_of, name_of, params_from_state_dict, torch_shape, with_torchvision_names
from medjax.models.medicalnet import ResNet
from medjax.models.resnet2d import ResNet2D
from resnet_state_dicts import named_in_sequence, state_dict_of, with_keras_biases

VOLUME, IMAGE = (1, 16, 16, 16, 1), (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("network", "depth", "features"),
    [
        (ResNet((1, 1, 1, 1), bottleneck=False), 10, 512),
        (ResNet((2, 2, 2, 2), bottleneck=False, projection=False), 18, 512),
        (ResNet((3, 4, 6, 3), bottleneck=False, projection=False), 34, 512),
        (ResNet(), 50, 2048),
        (ResNet2D(), 50, 2048),
    ],
)
def test_architecture_is_found_from_the_tensors(network, depth, features):
    volumes = isinstance(network, ResNet)
    found = architecture_of(state_dict_of(network, VOLUME if volumes else IMAGE))
    assert (found.depth, found.features, found.axes, found.form) == (
        depth,
        features,
        3 if volumes else 2,
        "torchvision",
    )
    assert found.blocks == network.blocks
    assert not volumes or (found.bottleneck, found.projection) == (network.bottleneck, network.projection)


def test_three_forms_of_one_network():
    plain = state_dict_of(ResNet2D((1, 1, 1, 1)), IMAGE)
    sequence = named_in_sequence(plain)
    assert architecture_of(sequence).form == "radimagenet"
    assert with_torchvision_names(sequence).keys() == plain.keys()
    keras = with_keras_biases(plain)
    assert architecture_of(keras).form == "keras"
    named = with_torchvision_names(keras)
    assert named.keys() == plain.keys()
    # A bias before a norm: (h + bias) - mean.
    bias, mean = keras["layer2.0.downsample.0.bias"], keras["layer2.0.downsample.1.running_mean"]
    np.testing.assert_array_equal(named["layer2.0.downsample.1.running_mean"], mean - bias)


def test_parameters_and_what_is_wrong_with_them():
    network = ResNet((1, 1, 1, 1), bottleneck=False)
    like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(VOLUME, jnp.float32))["params"]
    given = state_dict_of(network, VOLUME)
    head = {"conv_seg.0.weight": np.zeros(3, np.float32), "bn1.num_batches_tracked": np.zeros((), np.int64)}
    params = traverse_util.flatten_dict(params_from_state_dict(given | head, like))
    for path, leaf in params.items():
        assert given[name_of(path)].shape == torch_shape(leaf.shape)
    kernel = params[("layer1_0", "conv1", "kernel")]
    assert kernel[0, 1, 2, 5, 7] == given["layer1.0.conv1.weight"][7, 5, 0, 1, 2]

    del given["layer3.0.bn2.running_var"]
    with pytest.raises(ValueError, match="lacks 1 of the network's tensors: layer3.0.bn2.running_var"):
        params_from_state_dict(given, like)
    given = state_dict_of(network, VOLUME) | {"bn1.bias": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"bn1.bias \(3,\) for \(64,\)"):
        params_from_state_dict(given, like)
    given = state_dict_of(network, VOLUME) | {"bn1.bias": np.full(64, np.nan, np.float32)}
    with pytest.raises(ValueError, match="has not finite 1 of the network's tensors: bn1.bias"):
        params_from_state_dict(given, like)


def test_other_networks():
    small = state_dict_of(ResNet((1, 1, 1, 1), bottleneck=False), VOLUME)
    for given, words in (
        ({"encoder.weight": np.zeros(3)}, "neither a 3D ResNet of MedicalNet nor"),
        (small | {"conv1.weight": np.zeros((64, 3, 7, 7, 7))}, "neither"),
        ({name: array for name, array in small.items() if "layer3" not in name}, "neither"),
        (small | {"conv1.weight": np.zeros((64, 3, 7, 7))}, "name a ResNet-50"),
        (small | {"layer1.999999999.bn1.bias": np.zeros(64)}, "neither"),
        ({"x\n" * 1000: np.zeros(3)}, r"its tensors are 'x\\nx\\n.{0,100} \.\.\.$"),
    ):
        with pytest.raises(ValueError, match=words):
            architecture_of(given)


def test_biases_that_do_not_fit_their_norms_are_left_where_they_are():
    """Added up, [n, 1] and [1, n] numbers would be n^2."""
    n = 300_000
    state_dict = {
        "conv1.bias": np.zeros((1, n), np.float32),
        "bn1.running_mean": np.zeros((n, 1), np.float32),
        "bn1.running_var": np.zeros((n, 1), np.float32),
    }
    assert {name: array.shape for name, array in with_torchvision_names(state_dict).items()} == {
        name: array.shape for name, array in state_dict.items()
    }
    flags = dict.fromkeys(("conv1.bias", "bn1.running_mean", "bn1.running_var"), np.ones(3, np.bool_))
    assert with_torchvision_names(flags)["bn1.running_mean"].dtype == np.float32
