"""The KL bottleneck against its definition in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.tasks.bottlenecks import kl
from medjax.tasks.bottlenecks.kl import KL

BOTTLENECK, SIZE = KL(channels=2, weight=0.5), (2, 3, 2)
KEYS = jax.random.split(jax.random.key(3), 2)


def encoded(rows: int = 3) -> np.ndarray:
    """What an encoder may give, [B, d, h, w, 2c]."""
    return np.random.default_rng(0).normal(0, 1, (rows, *SIZE, 2 * BOTTLENECK.channels)).astype("f4")


def passed(values, noise):
    return BOTTLENECK(jnp.asarray(values), {}, jnp.asarray(noise))


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (0.7, -1.3), (-2.0, 1.1), (0.1, -6.0)])
def test_the_divergence_is_the_integral_that_defines_it(mean, log_variance):
    deviation = np.exp(log_variance / 2)
    x = mean + deviation * np.linspace(-12, 12, 200_001)
    log_p = -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation)
    integral = np.trapezoid(np.exp(log_p) / np.sqrt(2 * np.pi) * (log_p + 0.5 * x**2), x)
    found = kl.divergence(*(jnp.full((1, 1, 1, 1, 1), value) for value in (mean, log_variance)))
    np.testing.assert_allclose(found, [integral], rtol=2e-5, atol=1e-6)


def test_the_loss_is_summed_over_latents_and_averaged_over_volumes():
    values = encoded()
    mean, log_variance = np.split(values.astype("f8"), 2, axis=-1)
    by_volume = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(BOTTLENECK.loss_by_volume(values, None), by_volume, rtol=1e-5)
    found = passed(values, np.zeros((3, *SIZE, 2)))
    np.testing.assert_allclose([found.loss, found.metrics["kl"]], by_volume.mean(), rtol=1e-5)
    assert found.variables == {}


def test_the_decoder_is_given_mean_and_deviation_times_noise():
    values, noise = encoded(), np.random.default_rng(1).normal(size=(3, *SIZE, 2)).astype("f4")
    mean, log_variance = np.split(values.astype("f8"), 2, axis=-1)
    np.testing.assert_allclose(passed(values, noise).latents, mean + np.exp(log_variance / 2) * noise, rtol=1e-5)
    np.testing.assert_array_equal(BOTTLENECK.latents(values), values[..., :2])
    np.testing.assert_array_equal(BOTTLENECK.quantize({}, values), values)


def test_samples_have_the_mean_and_the_variance_that_the_encoder_gave():
    rows, size = 64, (8, 8, 8)
    values = np.broadcast_to(np.float32([0.3, -1.5, 0.8, -2.0]), (rows, *size, 4))
    noise = BOTTLENECK.draw(KEYS, jnp.arange(rows), size)
    found = np.asarray(passed(values, noise).latents, "f8").reshape(-1, 2)
    count = len(found)
    variances = np.exp([0.8, -2.0])
    assert (np.abs(found.mean(axis=0) - [0.3, -1.5]) < 5 * np.sqrt(variances / count)).all()
    np.testing.assert_allclose(found.var(axis=0), variances, rtol=5 * np.sqrt(2 / count))


def test_noise_is_keyed_by_its_row():
    whole = BOTTLENECK.draw(KEYS, jnp.arange(4), SIZE)
    np.testing.assert_array_equal(BOTTLENECK.draw(KEYS, jnp.array([3, 1]), SIZE), whole[jnp.array([3, 1])])
    assert jnp.abs(whole[0] - whole[1]).max() > 0.1
    assert jnp.abs(whole - BOTTLENECK.draw(jax.random.split(jax.random.key(4)), jnp.arange(4), SIZE)).max() > 0.1


def test_gradients_are_finite_differences():
    values, rng = encoded(), np.random.default_rng(2)
    noise, weights = (rng.normal(size=(3, *SIZE, 2)).astype("f4") for _ in range(2))

    def loss(values):
        found = passed(values, noise)
        return jnp.sum(found.latents * weights) + found.loss

    def in_float64(values):
        mean, log_variance = np.split(values, 2, axis=-1)
        sample = mean + np.exp(log_variance / 2) * noise
        divergence = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance)
        return (sample * weights).sum() + divergence.sum() / len(values)

    gradient = jax.grad(loss)(jnp.asarray(values))
    for place in rng.integers(0, values.size, 12):
        moved = np.zeros(values.size)
        moved[place] = 1e-5
        there, back = (in_float64(values.astype("f8") + sign * moved.reshape(values.shape)) for sign in (1, -1))
        np.testing.assert_allclose(gradient.reshape(-1)[place], (there - back) / 2e-5, rtol=1e-4, atol=1e-5)


def test_log_variances_are_clipped_as_published():
    values = np.zeros((1, 1, 1, 1, 4), np.float32)
    values[..., 2:] = [-100.0, 100.0]
    np.testing.assert_array_equal(kl.moments(values)[1].reshape(-1), [-30.0, 20.0])
    assert np.isfinite(kl.divergence(*kl.moments(values))).all()
