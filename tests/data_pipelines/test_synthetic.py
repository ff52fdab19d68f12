import itertools

import numpy as np

from data_pipelines import synthetic


def test_batches_are_a_function_of_seed_and_step():
    first = list(itertools.islice(synthetic.train_batches((8, 10, 12), 3, 4), 4))
    later = next(synthetic.train_batches((8, 10, 12), 3, 4, step=3))
    np.testing.assert_array_equal(later["image"], first[3]["image"])
    assert later["image"].shape == (4, 8, 10, 12, 1) and later["image"].dtype == np.float32
    assert later["image"].shape[0] == 4
    part = next(synthetic.train_batches((8, 10, 12), 3, 4, step=3, rows=[1, 2]))
    np.testing.assert_array_equal(part["image"], later["image"][1:3])
    assert np.abs(next(synthetic.train_batches((8, 10, 12), 4, 4, step=3))["image"] - later["image"]).max() > 0.1


def test_volumes_are_smooth_and_in_range():
    volume = synthetic.volume((32, 32, 32), 0, 0)
    assert -1 <= volume.min() < -0.5 and 0.5 < volume.max() <= 1
    assert np.abs(np.diff(volume, axis=0)).max() < 0.5
