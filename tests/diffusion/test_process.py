import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.schedules import linear
from tolerance import assert_equal_but_for_rounding

SCHEDULE = linear(100)
T = jnp.array([0, 40, 99])
X_0, NOISE = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 2, 1))


def test_q_sample_mixes_signal_and_noise():
    x_t = jax.jit(lambda x, t, noise: process.q_sample(SCHEDULE, x, t, noise))(X_0, T, NOISE)
    for i, t in enumerate(T):
        alpha_bar = SCHEDULE.alphas_cumprod[t]
        assert_equal_but_for_rounding(x_t[i], np.sqrt(alpha_bar) * X_0[i] + np.sqrt(1 - alpha_bar) * NOISE[i], units=16)


def test_noise_and_x_0_determine_each_other():
    x_t = process.q_sample(SCHEDULE, X_0, T, NOISE)
    for i, alpha_bar in enumerate(SCHEDULE.alphas_cumprod[T]):
        # Rounding of x_t is divided by the signal or the noise that is left in it.
        found = process.x_0_from_noise(SCHEDULE, x_t, T, NOISE)[i] * np.sqrt(alpha_bar)
        assert_equal_but_for_rounding(found, X_0[i] * np.sqrt(alpha_bar), size=np.abs(x_t).max(), units=16)
        found = process.noise_from_x_0(SCHEDULE, x_t, T, X_0)[i] * np.sqrt(1 - alpha_bar)
        assert_equal_but_for_rounding(found, NOISE[i] * np.sqrt(1 - alpha_bar), size=np.abs(x_t).max(), units=16)


def test_velocity_determines_x_0():
    x_t = process.q_sample(SCHEDULE, X_0, T, NOISE)
    v = process.velocity(SCHEDULE, X_0, T, NOISE)
    assert_equal_but_for_rounding(process.x_0_from_velocity(SCHEDULE, x_t, T, v), X_0, units=16)
    # The derivative of x_t along the circle (cos, sin) of signal and noise.
    angle = np.arccos(np.sqrt(SCHEDULE.alphas_cumprod[40]))
    step = 1e-4
    moved = [np.cos(a) * np.float64(X_0[1]) + np.sin(a) * np.float64(NOISE[1]) for a in (angle - step, angle + step)]
    np.testing.assert_allclose(v[1], (moved[1] - moved[0]) / (2 * step), atol=1e-5)


def test_posterior_mean_at_the_first_step_is_x_0():
    mean = process.posterior_mean(SCHEDULE, 5 + X_0, jnp.zeros(3, int), X_0)
    assert_equal_but_for_rounding(mean, X_0, units=16)


def test_no_float64_is_needed():
    assert process.q_sample(SCHEDULE, X_0, T, NOISE).dtype == jnp.float32
    assert process.at(SCHEDULE.betas, T, X_0).shape == (3, 1, 1, 1, 1)
