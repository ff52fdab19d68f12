"""Every codec by the same rules: shapes, there and back, thresholds, and what the loss is averaged over."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.codecs.haar import Haar
from medjax.codecs.haar_of_latents import HaarOfLatents
from medjax.codecs.identity import Identity
from medjax.codecs.latents import Latents, scaled, unscaled
from tolerance import assert_equal_but_for_rounding

SIZE = (8, 8, 16)
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, *SIZE, 1)), jnp.float32)
FROZEN = {"vqgan": {"generator": jnp.float32(3.0), "codebook": {}}, "low": -3.0, "high": 5.0}


class Folded:
    """Every 2 x 2 x 2 voxels as eight channels, times a number: what loses nothing."""

    def encode(self, frozen, volumes):
        b, d, h, w, _ = volumes.shape
        cells = volumes.reshape(b, d // 2, 2, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 5, 2, 4, 6)
        return frozen["generator"] * cells.reshape(b, d // 2, h // 2, w // 2, 8)

    def decode_latents(self, frozen, latents):
        b, d, h, w, _ = latents.shape
        cells = latents.reshape(b, d, h, w, 2, 2, 2).transpose(0, 1, 4, 2, 5, 3, 6)
        return cells.reshape(b, 2 * d, 2 * h, 2 * w, 1) / frozen["generator"]


LATENTS = Latents(Folded(), SIZE, (2, 2, 2), 8)
CODECS = {
    "haar": Haar(SIZE),
    "identity": Identity(SIZE),
    "latents": LATENTS,
    "haar of latents": HaarOfLatents(LATENTS, Haar((4, 4, 8), 8, dynamic_share=0.9)),
}
every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS.keys())


@every_codec
def test_x_0_has_the_shape_that_is_said(codec):
    assert codec.encode(FROZEN, {"image": IMAGE}).shape == (3, *codec.shape)
    assert codec.size == SIZE
    assert all(edge % multiple == 0 for edge, multiple in zip(SIZE, codec.size_multiple, strict=True))


@every_codec
def test_there_and_back_is_the_same_volume(codec):
    there = codec.encode(FROZEN, {"image": IMAGE})
    assert_equal_but_for_rounding(codec.decode(FROZEN, there), IMAGE)


@every_codec
def test_thresholds_leave_volumes_of_the_range_alone_and_keep_others_in_it(codec):
    # Latents of Folded, times 3 and from -3 to 5, are in [-1, 1] where voxels are in [-1, 1].
    x_0 = codec.encode(FROZEN, {"image": IMAGE})
    for how in ("clamp", "dynamic", "none"):
        assert_equal_but_for_rounding(codec.threshold(how, x_0), x_0)
    far = 3 * codec.encode(FROZEN, {"image": IMAGE})
    np.testing.assert_array_equal(codec.threshold("none", far), far)
    clamped, dynamic = (codec.threshold(how, far) for how in ("clamp", "dynamic"))
    for kept in (clamped, dynamic):
        assert jnp.abs(kept - far).max() > 0.1
    assert jnp.abs(clamped - dynamic).max() > 0.01


@every_codec
def test_parts_of_the_loss_average_to_the_mean(codec):
    values = jax.random.normal(jax.random.key(0), (3, *codec.shape))
    means = codec.part_means(values)
    assert means.shape == (3, max(1, len(codec.loss_parts)))
    np.testing.assert_allclose(means.mean(axis=1), values.mean(axis=(1, 2, 3, 4)), atol=1e-6)


def test_a_subband_is_a_part_of_its_own():
    codec = HaarOfLatents(LATENTS, Haar((4, 4, 8), 8))
    values = jnp.zeros((1, *codec.shape)).at[..., 8:16].set(1.0)  # the second subband of eight channels
    np.testing.assert_array_equal(codec.part_means(values), [[0, 1, 0, 0, 0, 0, 0, 0]])
    assert codec.loss_parts[:2] == ("LLL", "LLH")


def test_prepared_latents_are_scaled_as_those_of_volumes_are():
    latents = Folded().encode(FROZEN["vqgan"], IMAGE)
    np.testing.assert_array_equal(
        LATENTS.encode({"low": -3.0, "high": 5.0}, {"latents": latents}), scaled(latents, -3.0, 5.0)
    )
    assert_equal_but_for_rounding(unscaled(scaled(latents, -3.0, 5.0), -3.0, 5.0), latents)


def test_sizes_multiply():
    assert CODECS["haar of latents"].size_multiple == (4, 4, 4) and CODECS["identity"].size_multiple == (1, 1, 1)
