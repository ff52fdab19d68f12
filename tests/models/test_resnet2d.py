import numpy as np

from medjax.models.resnet2d import SLICES, three_planes


def test_three_planes():
    d, h, w = 5, 40, 17
    volume = np.arange(d * h * w, dtype=np.float32).reshape(1, d, h, w, 1)
    across_d, across_h, across_w = three_planes(volume)
    assert across_d.shape == (1, d, h, w, 1)  # all there are
    np.testing.assert_array_equal(across_d[0, 3], volume[0, 3])
    assert (across_h.shape, across_w.shape) == ((1, SLICES, d, w, 1), (1, SLICES, d, h, 1))
    places = [int(np.flatnonzero((volume[0] == s[0, 0]).any(axis=(0, 2, 3)))[0]) for s in np.asarray(across_h[0])]
    assert (places[0], places[-1]) == (2, 37)  # as far from both ends
    assert set(np.diff(places)) <= {2, 3}
