"""Residual blocks by their equations, such as the golden file of a 3D ResNet-50 does not have."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from medjax.models.resnet_blocks import BasicBlock, Bottleneck

RNG = np.random.default_rng(0)


def some_params(block: nn.Module, x: np.ndarray) -> Any:
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    return jax.tree.map(lambda leaf: RNG.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)


def convolved(x: jax.Array, params: Any, name: str, stride: int = 1, dilation: int = 1) -> jax.Array:
    """And then normalised by the norm of the same number."""
    kernel, axes = params[f"conv{name}"]["kernel"], x.ndim - 2
    numbers = ("NDHWC", "DHWIO", "NDHWC") if axes == 3 else ("NHWC", "HWIO", "NHWC")
    around = [(dilation * (kernel.shape[0] // 2),) * 2] * axes
    h = lax.conv_general_dilated(x, kernel, (stride,) * axes, around, None, (dilation,) * axes, numbers)
    norm = params[f"bn{name}"]
    return (h - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]


def test_a_block_of_two_convolutions():
    """Strided and dilated; beside it every second voxel, with zeros for the channels that there are not."""
    x = RNG.normal(size=(1, 7, 8, 9, 4)).astype(np.float32)
    block = BasicBlock(6, stride=2, dilation=2, projection=False)
    params = some_params(block, x)
    assert set(params) == {"conv1", "bn1", "conv2", "bn2"}
    h = jnp.maximum(convolved(x, params, "1", stride=2, dilation=2), 0)
    h = convolved(h, params, "2", dilation=2)
    skip = np.concatenate([x[:, ::2, ::2, ::2], np.zeros((1, 4, 4, 5, 2), np.float32)], axis=-1)
    np.testing.assert_allclose(block.apply({"params": params}, x), np.maximum(h + skip, 0), rtol=1e-5)


@pytest.mark.parametrize("stride_first", [False, True])
def test_where_a_bottleneck_strides(stride_first):
    x = RNG.normal(size=(1, 7, 8, 4)).astype(np.float32)
    block = Bottleneck(3, stride=2, stride_first=stride_first)
    params = some_params(block, x)
    first, middle = (2, 1) if stride_first else (1, 2)
    h = jnp.maximum(convolved(x, params, "1", first), 0)
    h = jnp.maximum(convolved(h, params, "2", middle), 0)
    skip = {"conv": params["downsample_0"], "bn": params["downsample_1"]}
    expected = np.maximum(convolved(h, params, "3") + convolved(x, skip, "", 2), 0)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-5)
