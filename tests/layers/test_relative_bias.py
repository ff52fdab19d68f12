import jax
import numpy as np

from medjax.layers.relative_bias import RelativeBias, buckets


def test_near_distances_have_a_bucket_each_and_far_ones_share():
    from_the_first, from_the_last = buckets(60)[0], buckets(60)[-1][::-1]
    # Distances 8 to 31 fall into 8 buckets that grow by 2^(1/4).
    shared = [8] * 2 + [9] * 2 + [10] * 2 + [11] * 2 + [12] * 4 + [13] * 3 + [14] * 4 + [15] * 33
    np.testing.assert_array_equal(from_the_last, [*range(8), *shared])
    np.testing.assert_array_equal(from_the_first[1:], from_the_last[1:] + 16)
    assert from_the_first[0] == 0


def test_each_head_adds_its_own_number():
    bias, variables = RelativeBias(3).init_with_output(jax.random.key(0), 5)
    table = variables["params"]["table"]
    assert bias.shape == (3, 5, 5)
    np.testing.assert_array_equal(bias[:, 4, 1], table[3])  # a key three positions before the query
    np.testing.assert_array_equal(bias[:, 1, 4], table[16 + 3])
