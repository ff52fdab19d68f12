import jax
import jax.numpy as jnp
import numpy as np

from medjax.diffusion import process
from medjax.diffusion.learned_variance import bound, log_variance
from medjax.diffusion.samplers import loop
from medjax.diffusion.samplers.ancestral import learned_ancestral_steps
from medjax.diffusion.schedules import linear, respace
from tolerance import assert_equal_but_for_rounding
from whole_samples import ancestral

SCHEDULE = linear(100)
T = jnp.array([1, 30, 99])
X_0, NOISE = jax.random.normal(jax.random.key(0), (2, 3, 2, 2, 2, 1))
X_T = process.q_sample(SCHEDULE, X_0, T, NOISE)


def test_lies_between_the_two_fixed_variances():
    for v, variance in ((-1.0, SCHEDULE.posterior_variance), (1.0, SCHEDULE.betas)):
        found = log_variance(SCHEDULE, X_T, T, jnp.full_like(X_T, v))
        np.testing.assert_allclose(found[:, 0, 0, 0, 0], np.log(variance[T]), rtol=1e-5)


def test_the_bound_is_least_at_the_true_posterior():
    v = jnp.full_like(X_T, -1.0)
    np.testing.assert_allclose(bound(SCHEDULE, X_0, X_T, T, X_0, v), 0, atol=1e-6)
    # At t = 1 the two variances differ; a wrong mean wants the larger one.
    assert bound(SCHEDULE, X_0, X_T, T, X_0, v + 2)[0] > 1e-3
    wrong = X_0 + 0.05
    assert bound(SCHEDULE, X_0, X_T, T, wrong, v + 2)[0] < bound(SCHEDULE, X_0, X_T, T, wrong, v)[0]


def test_the_bound_is_the_divergence_of_two_gaussians():
    """Against numbers: KL = log(s/r) + (r^2 + d^2) / (2 s^2) - 1/2, in bits."""
    t, v, wrong = jnp.array([30] * 3), jnp.full_like(X_T, 0.5), X_0 + 0.3
    r2 = SCHEDULE.posterior_variance[30]
    s2 = np.exp(0.75 * np.log(SCHEDULE.betas[30]) + 0.25 * np.log(r2))
    d = 0.3 * SCHEDULE.posterior_mean_coef1[30]
    expected = (0.5 * np.log(s2 / r2) + (r2 + d**2) / (2 * s2) - 0.5) / np.log(2)
    np.testing.assert_allclose(bound(SCHEDULE, X_0, X_T, t, wrong, v), expected, rtol=1e-3)


def test_at_the_first_step_it_is_the_density_of_x_0():
    t, v = jnp.zeros(3, jnp.int32), jnp.full_like(X_T, 1.0)
    s2 = SCHEDULE.betas[0]
    expected = (0.5 * np.log(2 * np.pi * s2) + 0.01**2 / (2 * s2)) / np.log(2)
    np.testing.assert_allclose(bound(SCHEDULE, X_0, X_T, t, X_0 + 0.01, v), expected, rtol=1e-3)


def test_gradients_reach_the_variance_alone():
    v = jnp.full_like(X_T, 0.3)
    of_estimate, of_v = jax.grad(lambda x, v: bound(SCHEDULE, X_0, X_T, T, x, v).sum(), (0, 1))(X_0 + 0.1, v)
    np.testing.assert_array_equal(of_estimate, 0)
    assert jnp.all(jnp.abs(of_v) > 0)


def test_sampling_with_the_smallest_is_sampling_with_the_posterior_variance():
    schedule = respace(SCHEDULE, 5)

    def noise_at(i):
        return jax.random.normal(jax.random.fold_in(jax.random.key(1), i), X_T.shape)

    learned = learned_ancestral_steps(schedule)
    x = loop.sample(learned, lambda x_t, t: (x_t / 2, jnp.full_like(x_t, -1)), X_T, noise_at, 5)
    fixed = ancestral(lambda x_t, t: x_t / 2, X_T, noise_at, schedule, schedule.posterior_variance)
    np.testing.assert_allclose(x, fixed, atol=2e-6)
    one = learned_ancestral_steps(respace(SCHEDULE, 1))
    ends = loop.sample(one, lambda x_t, t: (X_0, jnp.ones_like(x_t)), X_T, noise_at, 1)
    assert_equal_but_for_rounding(ends, X_0, units=16)
