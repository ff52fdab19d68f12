"""State dicts of residual networks with seeded numbers, in each form that they are published in."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from medjax.interop.resnet import CHILDREN, name_of, torch_shape


def state_dict_of(network: nn.Module, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """With torchvision's names, of a network that takes this shape."""
    like = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))["params"]
    rng, leaves = np.random.default_rng(0), traverse_util.flatten_dict(like).items()
    return {name_of(path): _numbers(rng, torch_shape(leaf.shape)) for path, leaf in leaves}


def named_in_sequence(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As a sequence of the network's parts is named."""
    places = {part: place for place, part in CHILDREN.items()}
    split = [(name.partition("."), array) for name, array in state_dict.items()]
    return {f"backbone.{places[part]}.{rest}": array for (part, _, rest), array in split}


def with_keras_biases(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """With a bias for each convolution."""
    kernels = {name: array for name, array in state_dict.items() if array.ndim > 1}
    rng = np.random.default_rng(1)
    return dict(state_dict) | {
        name.replace("weight", "bias"): _numbers(rng, a.shape[:1]) for name, a in kernels.items()
    }


def _numbers(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Of either sign with He's variance in a kernel, around 1 in a vector."""
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
