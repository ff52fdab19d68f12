"""Defines backbones, which turn volumes into the features that two sets of volumes are compared in."""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from medjax.errors import UserError
from medjax.interop.resnet import Architecture, architecture_of, params_from_state_dict, with_torchvision_names
from medjax.interop.torch_load import load_state_dict
from medjax.models.medicalnet import ResNet
from medjax.models.random_features import SEED, SIZE, random_features, random_params
from medjax.models.resnet2d import ResNet2D, three_planes

VERSION = 1  # bump when features change, here or in the networks: features that were kept are then taken again
# (mean, standard deviation) of each RGB channel, intensities in [0, 1], that a network was trained with.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RADIMAGENET = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
RADIMAGENET_OF_KERAS = (0.406, 0.456, 0.485), (1.0, 1.0, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """Holds a network with its weights.

    Attributes:
      name: name for people to read.
      fingerprint: fingerprint of the weights; features of different ones are not comparable.
      size: f, how many features it gives.
      params: parameters of the network.
      apply: (params, volumes [B, D, H, W, 1] float32 in [-1, 1]) to features [B, f] float32.
    """

    name: str
    fingerprint: str
    size: int
    params: Any
    apply: Callable[[Any, jax.Array], jax.Array]

    def features(self, volumes: np.ndarray, batch_size: int = 8, sharding: NamedSharding | None = None) -> np.ndarray:
        """Computes [n, f] float32 of volumes [n, D, H, W, 1] in [-1, 1] on the host, each sent to the device once.

        Args:
          batch_size: volumes at a time; raised to a multiple of the devices.
          sharding: sharding of a batch over the devices of a mesh; one device by default.
        """
        return features_of(self.apply, self.params, volumes, batch_size, sharding)


def load_backbone(weights: str | pathlib.Path | None = None) -> Backbone:
    """Makes the backbone of a file, whose network is found from its tensors, or, without one, random convolutions.

    Files: MedicalNet's `resnet_*.pth`; ResNet-50 of ImageNet with torchvision's names; ResNet-50 of RadImageNet as its
    authors published it for PyTorch (`backbone.0.weight` ...), or as converted from Keras (its convolutions have biases).

    Raises:
      UserError: naming the file, if it cannot be read or holds none of these.
    """
    if weights is None:
        return random_backbone()
    path = pathlib.Path(weights).expanduser()
    state_dict = load_state_dict(path)
    try:
        found = architecture_of(state_dict)
        return _medicalnet(found, state_dict) if found.axes == 3 else _planes(found, state_dict)
    except ValueError as error:
        raise UserError(f"evaluate.weights={path} {error}") from error


def random_backbone() -> Backbone:
    """Makes the fixed network of random convolutions that needs no file."""
    params = random_params()
    name = f"random 3D convolutions, not trained (seed {SEED}, {SIZE} features)"
    return Backbone(name, fingerprint(params), SIZE, params, random_features)


def _medicalnet(found: Architecture, state_dict: dict[str, np.ndarray]) -> Backbone:
    network = ResNet(found.blocks, found.bottleneck, found.projection)
    params = _filled(network, state_dict, (1, 16, 16, 16, 1))

    def apply(params: Any, volumes: jax.Array) -> jax.Array:
        # As WDM was judged: intensities in [0, 1], the volume in its own size.
        return network.apply({"params": params}, (volumes + 1) / 2)

    return Backbone(f"MedicalNet ResNet-{found.depth}", fingerprint(params), found.features, params, apply)


def _planes(found: Architecture, state_dict: dict[str, np.ndarray]) -> Backbone:
    network = ResNet2D(found.blocks, found.form == "keras")
    params = _filled(network, with_torchvision_names(state_dict), (1, 32, 32, 3))
    data, (shift, scale) = {
        "torchvision": ("ImageNet", IMAGENET),
        "radimagenet": ("RadImageNet", RADIMAGENET),
        "keras": ("RadImageNet (from Keras)", RADIMAGENET_OF_KERAS),
    }[found.form]

    def apply(params: Any, volumes: jax.Array) -> jax.Array:
        features = []
        for slices in three_planes((volumes + 1) / 2):
            images = (slices.reshape(-1, *slices.shape[2:]) - jnp.array(shift)) / jnp.array(
                scale
            )  # grey in all colours
            rows = network.apply({"params": params}, images)
            features.append(rows.reshape(*slices.shape[:2], -1).mean(axis=1))
        return jnp.concatenate(features, axis=1)

    name = f"{data} ResNet-{found.depth} on slices of three planes"
    return Backbone(name, fingerprint(params), 3 * found.features, params, apply)


def _filled(network: ResNet | ResNet2D, state_dict: dict[str, np.ndarray], shape: tuple[int, ...]) -> Any:
    like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))["params"]
    return params_from_state_dict(state_dict, like)


def fingerprint(params: Any) -> str:
    """Returns twelve hexadecimal digits that other weights would not have."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(f"{np.shape(leaf)} {leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:12]


def features_of(
    apply: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    volumes: np.ndarray,
    batch_size: int = 8,
    sharding: NamedSharding | None = None,
) -> np.ndarray:
    """Computes the features of many volumes, a batch at a time.

    Args:
      apply: maps parameters and volumes [B, D, H, W, C] to features [B, k]; compiled once.
      params: its first argument.
      volumes: [n, D, H, W, C] on the host.
      batch_size: B; the last batch is filled up with repeats that are dropped.
      sharding: sharding of a batch over the devices of a mesh; one device by default.

    Returns:
      [n, k] float32.
    """
    ways = 1 if sharding is None else sharding.mesh.size
    n, batch_size = len(volumes), -(-min(batch_size, len(volumes)) // ways) * ways
    everywhere = None if sharding is None else NamedSharding(sharding.mesh, PartitionSpec())
    compiled = _compiled(apply, everywhere)
    params = jax.device_put(params, everywhere)
    batches = [np.arange(start, start + batch_size) % n for start in range(0, n, batch_size)]
    rows = [np.asarray(compiled(params, jax.device_put(volumes[batch], sharding))) for batch in batches]
    return np.concatenate(rows)[:n].astype(np.float32)


@functools.lru_cache(maxsize=8)
def _compiled(apply: Callable[[Any, jax.Array], jax.Array], everywhere: NamedSharding | None) -> Callable:
    def exact(params: Any, volumes: jax.Array) -> jax.Array:
        # Accelerators round float32 products to fewer bits otherwise, and features would depend on the machine.
        with jax.default_matmul_precision("highest"):
            return apply(params, volumes)

    return jax.jit(exact) if everywhere is None else jax.jit(exact, out_shardings=everywhere)
