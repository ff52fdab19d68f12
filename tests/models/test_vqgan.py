import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.models.discriminators import PatchDiscriminator
from medjax.models.vqgan import Decoder, Encoder, strides_by_level
from on_mesh import on_the_mesh
from test_blocks import randomized
from tolerance import assert_equal_but_for_rounding

SMALL = {"base_channels": 4, "groups": 2}
X = np.random.default_rng(0).standard_normal((2, 8, 8, 4, 1)).astype("f4")
PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "medical_state_dicts.json").read_text())


def count(shapes) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_published_sizes(factor):
    parts = PUBLISHED[f"vqgan_{factor}{factor}{factor}"]["parts"]
    key, downsample = jax.random.key(0), (factor,) * 3
    volume, latents = jnp.zeros((1, *downsample, 1)), jnp.zeros((1, 1, 1, 1, 8))
    encoder = jax.eval_shape(Encoder(downsample=downsample).init, key, volume)["params"]
    decoder = jax.eval_shape(Decoder(downsample=downsample).init, key, latents)["params"]
    assert count(encoder.pop("latent_conv")) == parts["pre_vq_conv"]
    assert count(decoder.pop("latent_conv")) == parts["post_vq_conv"]
    assert (count(encoder), count(decoder)) == (parts["encoder"], parts["decoder"])
    for x, name in ((volume[:, 0], "image_discriminator"), (volume, "video_discriminator")):
        assert count(jax.eval_shape(PatchDiscriminator().init, key, x)["params"]) == parts[name]


@pytest.mark.parametrize(
    ("downsample", "strides"),
    [
        ((4, 4, 4), ((2, 2, 2), (2, 2, 2))),
        ((1, 2, 8), ((1, 2, 2), (1, 1, 2), (1, 1, 2))),  # the fewer halvings come first
    ],
)
def test_strides(downsample, strides):
    assert strides_by_level(downsample) == strides


@pytest.mark.parametrize("downsample", [(1, 1, 1), (3, 2, 2), (0, 2, 2)])
def test_refuses_to_downsample_by(downsample):
    with pytest.raises(ValueError, match="powers of two"):
        strides_by_level(downsample)


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("downsample", [(2, 2, 2), (4, 2, 1)])
def test_there_and_back(downsample, norm):
    options = SMALL | {"downsample": downsample, "norm": norm}
    encoder, decoder = Encoder(out_channels=3, **options), Decoder(**options)
    latents, made = jax.eval_shape(encoder.init_with_output, jax.random.key(0), X)
    assert latents.shape == (2, *(n // factor for n, factor in zip(X.shape[1:4], downsample, strict=True)), 3)
    assert ("batch_stats" in made) == (norm == "batch")
    assert jax.eval_shape(decoder.init_with_output, jax.random.key(0), latents)[0].shape == X.shape


def test_lowering_and_remat_change_neither_parameters_nor_gradients():
    networks = Encoder(**SMALL, downsample=(2, 1, 2)), Decoder(**SMALL, downsample=(2, 1, 2))
    latents = jax.eval_shape(networks[0].init_with_output, jax.random.key(0), X)[0]
    params = [
        randomized(jax.eval_shape(net.init, jax.random.key(0), x))
        for net, x in zip(networks, (X, latents), strict=True)
    ]

    def loss(params, encoder, decoder):
        return jnp.mean(decoder.apply(params[1], encoder.apply(params[0], X)) ** 2)

    others = [network.clone(lowering="stacked", remat=(True, True)) for network in networks]
    expected, found = (jax.jit(jax.grad(loss), static_argnums=(1, 2))(params, *pair) for pair in (networks, others))
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=2e-5 * np.abs(a).max())


def test_padding_is_what_surrounds_volumes_on_the_way_down():
    params = randomized(jax.eval_shape(Encoder(**SMALL).init, jax.random.key(0), X))
    results = [jax.jit(Encoder(**SMALL, padding=fill).apply)(params, X) for fill in ("replicate", "zeros", "circular")]
    for i in range(3):
        assert jnp.abs(results[i] - results[i - 1]).max() > 1e-3


def test_bfloat16_is_close_and_gives_float32():
    params = randomized(jax.eval_shape(Encoder(**SMALL).init, jax.random.key(0), X))
    exact, half = (jax.jit(Encoder(**SMALL, dtype=dtype).apply)(params, X) for dtype in (jnp.float32, jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert 0 < jnp.abs(exact - half).mean() < 0.05 * jnp.std(exact)


def test_of_a_cut_volume_nothing_is_gathered():
    options = SMALL | {"downsample": (2, 2, 2)}
    x = np.random.default_rng(0).standard_normal((2, 16, 8, 4, 1)).astype("f4")
    encoder, decoder = Encoder(**options), Decoder(**options)
    latents = jax.eval_shape(encoder.init_with_output, jax.random.key(0), x)[0]
    params = [
        randomized(jax.eval_shape(net.init, jax.random.key(0), a)) for net, a in ((encoder, x), (decoder, latents))
    ]

    def reconstruct(x):
        return decoder.apply(params[1], encoder.apply(params[0], x))

    sizes = {"depth": 4, "height": 2}
    found, collectives = on_the_mesh(reconstruct, x, sizes=sizes)
    assert_equal_but_for_rounding(found, jax.jit(reconstruct)(x))
    assert collectives.keys() == {"collective-permute", "all-reduce"}  # halos, and the sums of group norms


def test_refuses_an_unknown_norm():
    with pytest.raises(ValueError, match="'layer'.*'group' or 'batch'"):
        jax.eval_shape(Encoder(**SMALL, norm="layer").init, jax.random.key(0), X)
