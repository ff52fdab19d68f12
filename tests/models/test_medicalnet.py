"""What the golden file, of a ResNet-50, does not cover: blocks of two convolutions, and shortcuts without any."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medjax.models.resnet_blocks import BasicBlock

RNG = np.random.default_rng(0)


def norm(x, p):
    return (x - p["mean"]) / np.sqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]


def test_a_block_of_two_convolutions_by_its_equation():
    """Strided and dilated; beside it every second voxel, with zeros for the channels that there are not."""
    x = RNG.normal(size=(1, 7, 8, 9, 4)).astype(np.float32)
    block = BasicBlock(6, stride=2, dilation=2, projection=False)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: RNG.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)
    assert set(params) == {"conv1", "bn1", "conv2", "bn2"}

    def convolve(h, name, stride):
        kernel, numbers = params[name]["kernel"], ("NDHWC", "DHWIO", "NDHWC")
        return lax.conv_general_dilated(h, kernel, (stride,) * 3, [(2, 2)] * 3, None, (2, 2, 2), numbers)

    h = jnp.maximum(norm(convolve(x, "conv1", 2), params["bn1"]), 0)
    h = norm(convolve(h, "conv2", 1), params["bn2"])
    skip = np.concatenate([x[:, ::2, ::2, ::2], np.zeros((1, 4, 4, 5, 2), np.float32)], axis=-1)
    np.testing.assert_allclose(block.apply({"params": params}, x), np.maximum(h + skip, 0), rtol=1e-5)
