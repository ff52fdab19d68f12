import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from medjax.errors import UserError
from medjax.interop.torch_save import save_state_dict
from medjax.models import features
from medjax.models.features import fingerprint, load_backbone, random_backbone
from medjax.models.medicalnet import ResNet
from medjax.models.resnet2d import ResNet2D
from resnet_state_dicts import named_in_sequence, state_dict_of, with_keras_biases
from tolerance import assert_equal_but_for_rounding

RNG = np.random.default_rng(0)
VOLUMES = RNG.uniform(-1, 1, (5, 12, 14, 16, 1)).astype(np.float32)
IMAGES = ResNet2D((1, 1, 1, 1))


def test_features_depend_neither_on_the_batch_nor_on_the_mesh():
    backbone = random_backbone()
    whole = backbone.features(VOLUMES, batch_size=5)
    assert (whole.shape, whole.dtype) == ((5, backbone.size), np.float32)
    # They are logarithms of sums, among them sums of next to nothing.
    for size in (1, 2, 8):
        assert_equal_but_for_rounding(np.exp(backbone.features(VOLUMES, batch_size=size)), np.exp(whole))
    mesh = jax.make_mesh((4, 2), ("data", "depth"), axis_types=(AxisType.Auto,) * 2)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    assert_equal_but_for_rounding(np.exp(backbone.features(VOLUMES, 2, sharding)), np.exp(whole))


def test_fingerprints():
    params = random_backbone().params
    assert fingerprint(params) == random_backbone().fingerprint
    changed = [kernel.copy() for kernel in params]
    changed[2][0, 0, 0, 0, 0] += 1e-6
    assert fingerprint(changed) != fingerprint(params)


def test_a_file_of_medicalnet(tmp_path):
    """Intensities reach the network in [0, 1], in the volume's own size."""
    network = ResNet((1, 1, 1, 1), bottleneck=False)
    state_dict = state_dict_of(network, VOLUMES[:1].shape)
    save_state_dict(tmp_path / "resnet_10.pth", {f"module.{name}": array for name, array in state_dict.items()})
    backbone = load_backbone(tmp_path / "resnet_10.pth")
    assert (backbone.name, backbone.size) == ("MedicalNet ResNet-10", 512)
    expected = jax.jit(network.apply)({"params": backbone.params}, (VOLUMES[:2] + 1) / 2)
    np.testing.assert_allclose(backbone.features(VOLUMES[:2]), expected, rtol=1e-5, atol=1e-6)


def test_files_of_2d_networks(tmp_path):
    plain = state_dict_of(IMAGES, (1, 32, 32, 3))
    forms = {
        "ImageNet": plain | {"fc.weight": np.zeros((1000, 2048), np.float32)},
        "RadImageNet": named_in_sequence(plain),
        "RadImageNet (from Keras)": with_keras_biases(plain),
    }
    found = {}
    for data, state_dict in forms.items():
        save_state_dict(tmp_path / "a.pt", state_dict)
        backbone = load_backbone(tmp_path / "a.pt")
        assert backbone.name == f"{data} ResNet-14 on slices of three planes"
        found[data] = backbone.features(VOLUMES[:1])
        assert found[data].shape == (1, backbone.size) == (1, 3 * 2048)
        assert np.isfinite(found[data]).all()
    # The same numbers, but each network's own contrast.
    assert np.abs(found["ImageNet"] - found["RadImageNet"]).max() > 0.01


def test_planes_in_their_order():
    """The thirds of the features are those of slices across D, H and W: turning the volume turns them."""
    backbone = dataclasses.replace(_planes_backbone(), name="turned")
    upright, turned = backbone.features(VOLUMES[:1]), backbone.features(VOLUMES[:1].transpose(0, 2, 1, 3, 4))
    thirds = np.split(upright, 3, axis=1)
    np.testing.assert_allclose(np.split(turned, 3, axis=1)[:2], [thirds[1], thirds[0]], rtol=1e-4, atol=1e-5)


def _planes_backbone() -> features.Backbone:
    state_dict = state_dict_of(IMAGES, (1, 32, 32, 3))
    return features._planes(features.architecture_of(state_dict), state_dict)


def test_files_that_are_no_backbones(tmp_path):
    save_state_dict(tmp_path / "a.pt", {"weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match=r"evaluate.weights=.*a.pt is neither a 3D ResNet"):
        load_backbone(tmp_path / "a.pt")
    broken = state_dict_of(IMAGES, (1, 32, 32, 3))
    del broken["bn1.bias"]
    save_state_dict(tmp_path / "b.pt", broken)
    with pytest.raises(UserError, match=r"evaluate.weights=.*b.pt lacks 1 of the network's tensors: bn1.bias"):
        load_backbone(tmp_path / "b.pt")
    with pytest.raises(UserError, match="there is no such file"):
        load_backbone(tmp_path / "c.pt")
