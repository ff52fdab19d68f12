import numpy as np

from medjax.pictures import montage, three_planes, to_grey

RAS = np.diag([1.0, 1.0, 1.0, 1.0])


def head(shape=(16, 20, 12)):
    """Dark, but bright at the patient's right, front and top."""
    volume = np.full(shape, -1.0, np.float32)
    i, j, k = (length // 2 for length in shape)
    volume[i:, j:, k:] = 1.0
    return volume


def test_slices_stand_upright():
    picture = three_planes(head(), RAS, height=20)
    axial = picture[:, :16]
    assert axial[2, 12] > 200  # front is up, right is right
    assert axial[18, 12] < 50
    assert axial[2, 3] < 50


def test_voxel_order_does_not_matter():
    flipped = head()[::-1, ::-1].copy()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps[:3, 3] = [15, 19, 0]
    np.testing.assert_array_equal(three_planes(flipped, lps), three_planes(head(), RAS))
    swapped = head().transpose(2, 0, 1)
    ras_of_swapped = np.zeros((4, 4))
    ras_of_swapped[[2, 0, 1, 3], [0, 1, 2, 3]] = 1.0
    np.testing.assert_array_equal(three_planes(swapped, ras_of_swapped), three_planes(head(), RAS))


def test_a_millimetre_is_as_long_in_every_direction():
    thick = np.diag([1.0, 1.0, 4.0, 1.0])
    picture = three_planes(np.ones((16, 16, 4), np.float32), thick, height=32)
    assert picture.shape == (32, 3 * 32)
    assert picture.min() == 255


def test_grey_is_clipped():
    assert to_grey(np.array([-3.0, -1.0, 0.0, 1.0, np.nan])).tolist() == [0, 0, 128, 255, 0]


def test_montage_has_a_strip_for_each_row_with_volumes():
    picture = montage([("real", [head()] * 2), ("none", []), ("generated", [head()])], RAS, height=32)
    assert picture.height == 2 * (32 + 4 + 18) + 4
