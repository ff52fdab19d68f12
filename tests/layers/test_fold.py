import jax.numpy as jnp
import numpy as np
import pytest

from medjax.layers.fold import concatenate_channels, per_channel, refold


def volume(channels, start=0):
    return start + jnp.arange(2 * 2 * 2 * 8 * channels, dtype=jnp.float32).reshape(2, 2, 2, 8, channels)


def test_neighbours_of_w_lie_side_by_side():
    x = volume(3)
    folded = refold(x, 1, 4)
    assert folded.shape == (2, 2, 2, 2, 12)
    np.testing.assert_array_equal(folded[1, 0, 1, 1, 3:6], x[1, 0, 1, 5])
    np.testing.assert_array_equal(refold(refold(folded, 4, 2), 2, 1), x)


def test_refuses_a_width_that_does_not_fold():
    with pytest.raises(ValueError, match="width of 8 cannot be folded by 3"):
        refold(volume(1), 1, 3)


def test_values_per_channel_meet_their_channels():
    values = jnp.array([[10.0, 20.0, 30.0], [1.0, 2.0, 3.0]])
    added = refold(refold(volume(3), 1, 2) + per_channel(values, 2), 2, 1)
    np.testing.assert_array_equal(added, volume(3) + values[:, None, None, None])


def test_joined_channels():
    a, b = volume(2), volume(3, start=1000)
    joined = concatenate_channels(refold(a, 1, 2), refold(b, 1, 2), 2)
    np.testing.assert_array_equal(refold(joined, 2, 1), jnp.concatenate([a, b], axis=-1))
