import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.diffusion import times
from tolerance import assert_equal_but_for_rounding

KEY, ROWS = jax.random.key(0), jnp.arange(4000)


@pytest.mark.parametrize("draw", [times.uniform, times.continuous])
def test_cover_all_times_evenly_and_by_row(draw):
    t = np.asarray(draw(KEY, ROWS, 8))
    assert 0 <= t.min() < 0.1
    assert 6.9 < t.max() <= 7
    np.testing.assert_allclose(t.mean(), 3.5, atol=0.15)
    np.testing.assert_array_equal(draw(KEY, ROWS[100:103], 8), t[100:103])


def history_of(losses):
    """Each step's loss seen often enough."""
    steps = jnp.arange(len(losses))
    history = times.no_history(len(losses))
    for _ in range(times.REMEMBERED):
        history = times.remember(history, steps, jnp.asarray(losses))
    return history


def test_even_until_every_step_is_known():
    history = times.remember(times.no_history(3), jnp.array([0, 2] * 20), jnp.array([9.0, 1.0] * 20))
    assert_equal_but_for_rounding(times.importance(history), 1 / 3, units=16)
    np.testing.assert_array_equal(history["count"], [10, 0, 10])


def test_proportional_to_the_root_mean_square():
    p = times.importance(history_of([1.0, 2.0, 5.0]))
    assert_equal_but_for_rounding(p, 0.999 * np.array([1, 2, 5]) / 8 + 0.001 / 3)


def test_the_oldest_loss_is_forgotten():
    history = times.no_history(2)
    losses = jnp.arange(13.0)
    history = times.remember(history, jnp.zeros(13, jnp.int32), losses)
    np.testing.assert_array_equal(history["losses"][0], losses[-10:])
    np.testing.assert_array_equal(history["losses"][1], 0)


def test_weights_make_up_for_the_choice():
    """The weighted mean of any function of t is its even mean."""
    history = history_of([0.5, 2.0, 4.0, 1.0])
    t, weights = times.important(KEY, jnp.arange(40_000), history)
    shares = np.bincount(t, minlength=4) / len(t)
    np.testing.assert_allclose(shares, times.importance(history), atol=0.01)
    values = np.array([3.0, -1.0, 2.0, 7.0])
    np.testing.assert_allclose(np.mean(values[t] * weights), values.mean(), rtol=0.02)


def test_losses_of_nothing_do_no_harm():
    np.testing.assert_allclose(jnp.isfinite(times.importance(history_of([0.0, 0.0]))), True)
