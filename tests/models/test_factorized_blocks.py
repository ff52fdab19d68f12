import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from medjax.layers.conv import LOWERINGS, Conv
from medjax.layers.normalization import GroupNorm
from medjax.models.factorized_blocks import SliceResidualBlock, SliceUpsample
from on_mesh import on_the_mesh
from test_blocks import EMBEDDING, X, randomized
from tolerance import assert_equal_but_for_rounding


@pytest.mark.parametrize("embedding", [EMBEDDING, None], ids=["conditioned", "not"])
@pytest.mark.parametrize("features", [4, 6])
def test_residual_block(features, embedding):
    block = SliceResidualBlock(features, groups=2)
    params = randomized(block.init(jax.random.key(0), X, embedding))

    def apply(name, module, x):
        return module.apply({"params": params["params"][name]}, x)

    conv, norm = Conv(features, (1, 3, 3)), GroupNorm(2)
    h = apply("norm_1", norm, apply("conv_1", conv, X))
    if embedding is not None:
        projection = params["params"]["time_projection"]
        time = (jax.nn.silu(embedding) @ projection["kernel"] + projection["bias"])[:, None, None, None]
        h = h * (1 + time[..., :features]) + time[..., features:]
    h = jax.nn.silu(apply("norm_2", norm, apply("conv_2", conv, jax.nn.silu(h))))
    skip = X if features == 4 else apply("skip_conv", Conv(features, (1, 1, 1)), X)
    assert_equal_but_for_rounding(block.apply(params, X, embedding), skip + h)


def by_definition(kernel, bias, x):
    """PyTorch's transposed convolution of stride (1, 2, 2) and padding (0, 1, 1)."""
    y = lax.conv_general_dilated(
        x,
        kernel[:, ::-1, ::-1],
        (1, 1, 1),
        ((0, 0), (2, 2), (2, 2)),
        lhs_dilation=(1, 2, 2),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )
    return y + bias


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_upsampling_is_a_transposed_convolution(lowering):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5, 3)).astype(np.float32)
    layer = SliceUpsample(lowering=lowering)
    params = randomized(layer.init(jax.random.key(0), x))["params"]
    values, gradients = [], []
    for upsample in (lambda p, x: layer.apply({"params": p}, x), lambda p, x: by_definition(p["kernel"], p["bias"], x)):
        values.append(upsample(params, x))
        gradients.append(jax.grad(lambda p, x, f=upsample: jnp.sum(jnp.sin(f(p, x))), argnums=(0, 1))(params, x))
    assert values[0].shape == (2, 3, 8, 10, 3)
    assert_equal_but_for_rounding(*values)
    assert_equal_but_for_rounding(*gradients)


def test_upsampling_on_a_mesh_fetches_halos_only():
    x = np.random.default_rng(0).standard_normal((2, 4, 8, 5, 3)).astype(np.float32)
    layer = SliceUpsample()
    params = randomized(layer.init(jax.random.key(0), x))
    y, found = on_the_mesh(lambda x, params: layer.apply(params, x), x, params, sizes={"depth": 2, "height": 4})
    assert_equal_but_for_rounding(y, layer.apply(params, x))
    assert found == {"collective-permute": 2}
