import numpy as np
import pytest

from data_pipelines.far_values import far_value
from data_pipelines.notices import Kind

SHAPE = (32, 36, 40)
AWAY = np.linalg.norm(np.indices(SHAPE).T - (np.array(SHAPE) - 1) / 2, axis=-1).T  # voxels from the centre


def ct(padding=None, beyond=19.0):
    """Noise of 300 HU within 18 voxels, air around it, padding beyond."""
    array = np.where(AWAY < 18, np.random.default_rng(0).normal(0, 300, SHAPE), -1000)
    return np.where(beyond < AWAY, -1000 if padding is None else padding, array).astype(np.float32)


@pytest.mark.parametrize("padding, beyond", [(-2000, 19), (-3024, 19), (-2048, 17), (63536, 18), (-32768, 18)])
def test_padding_of_ct_is_noticed(padding, beyond):
    found = far_value(ct(padding, beyond))
    assert found.kind == Kind.FAR_CT
    assert f"{np.mean(beyond < AWAY):.0%} of the voxels are {padding:g}, the others " in found.detail


def test_air_is_not_padding():
    assert far_value(ct()) is None
    assert far_value(np.where(AWAY < 18, ct(), -1024).astype(np.float32)) is None


def brain(low, high, background=0.0):
    values = np.random.default_rng(0).uniform(low, high, SHAPE)
    return np.where(AWAY < 12, values, background).astype(np.float32)


def test_background_around_a_brain_is_noticed_only_where_it_takes_most_of_the_range():
    assert far_value(brain(100, 1000)) is None
    assert far_value(brain(-2.5, 2.5)) is None
    squeezed = far_value(brain(1000, 1200))
    assert squeezed.kind == Kind.FAR and "are 0, the others 1002 to 1198" in squeezed.detail


def test_few_voxels_of_a_far_value_are_the_window_s_to_leave_out():
    array = brain(100, 1000)
    array[0] = 10000  # 3 %
    assert far_value(array) is None
    array[1] = 10000  # 6 %
    assert far_value(array).kind == Kind.FAR


def test_volumes_of_two_values_are_one_far_from_the_other():
    assert far_value((AWAY < 12).astype(np.float32)).kind == Kind.FAR
