import functools

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.readers import atlas
from medjax.metrics.memorization import BEHIND, examined, find_copies, margins
from medjax.models.features import random_backbone

N_TRAINING, N_HELD_OUT, N_FRESH, EACH = 48, 16, 16, 3


@functools.cache
def brains(first, count):
    """[n, 32, 32, 32, 1] in [-1, 1]: atlas subjects."""
    return np.stack([atlas.subject(0, first + n, (32, 32, 32))[0].array for n in range(count)])[..., None] / 600 - 1


def slightly_warped(volume, rng):
    """By 0.3 voxels in the root of the mean square, the subjects themselves differ by about 0.5."""
    field = np.stack([ndimage.gaussian_filter(rng.standard_normal(volume.shape), 4) for _ in range(3)])
    return ndimage.map_coordinates(
        volume, np.indices(volume.shape) + 0.3 * field / field.std(), order=1, mode="nearest"
    )


PLANTED = {
    "exact": lambda volume, rng: volume,
    "left and right": lambda volume, rng: volume[::-1],
    "upside down": lambda volume, rng: volume[:, :, ::-1],
    "noise": lambda volume, rng: np.clip(volume + rng.normal(0, 0.1, volume.shape), -1, 1),
    "warp": slightly_warped,
}


def test_planted_copies_are_found_and_fresh_subjects_are_not():
    rng = np.random.default_rng(0)
    training, held_out = brains(0, N_TRAINING), brains(N_TRAINING, N_HELD_OUT)
    fresh = brains(N_TRAINING + N_HELD_OUT, N_FRESH)
    sources = rng.choice(N_TRAINING, (len(PLANTED), EACH), replace=False)
    copies = [
        copy(training[n, ..., 0], rng) for copy, rows in zip(PLANTED.values(), sources, strict=True) for n in rows
    ]
    generated = np.concatenate([fresh, np.stack(copies)[..., None]]).astype(np.float32)
    features = random_backbone().features
    volumes = [each.astype(np.float32) for each in (generated, training, held_out)]
    for found in (
        find_copies(*[examined(each, features(each, 16)) for each in volumes]),
        find_copies(*[examined(each) for each in volumes[:2]]),
    ):
        assert found.calibrated and found.warnings == ()
        assert found.flagged[N_FRESH:].mean() >= 0.95 and found.flagged[:N_FRESH].sum() <= 1
        planted = np.flatnonzero(found.flagged[N_FRESH:])
        np.testing.assert_array_equal(found.nearest[N_FRESH:][planted], sources.ravel()[planted])
        assert set(found.closest[: found.copies]) == set(np.flatnonzero(found.flagged))
        assert found.copies == found.flagged.sum() and found.share == found.copies / len(generated)
        assert found.low < found.share < found.high
        assert found.subjects_copied == len(np.unique(found.nearest[found.flagged]))
        assert found.n_null == (N_HELD_OUT if len(found.spaces) == 2 else N_TRAINING) and found.observed.count <= 1


def made_up(n, seed):
    """Subjects of noise: enough for what is counted, not for what is recognised."""
    field = np.random.default_rng(seed).standard_normal((n, 8, 8, 8))
    bump = np.einsum("i,j,k->ijk", *[np.hanning(10)[1:-1]] * 3)
    return (bump * (2 + ndimage.gaussian_filter(field, (0, 1, 1, 1))))[..., None].astype(np.float32)


def test_several_scans_of_a_subject_are_no_copies_of_each_other():
    """Nor do they hide a copy: the next subjects are what it stands out from."""
    scans = np.repeat(made_up(20, 0), 3, axis=0) + 0.01 * made_up(60, 1)
    subjects = np.repeat(np.arange(20), 3)
    generated = np.concatenate([scans[[0, 1, 30]], made_up(7, 2)])
    found = find_copies(examined(generated), examined(scans), subjects=subjects)
    assert found.flagged.tolist() == [True] * 3 + [False] * 7 and found.warnings == ()
    assert (found.subjects_copied, found.subjects_share, found.n_subjects) == (2, 0.1, 20)


def test_duplicates_among_the_volumes_without_copies_are_told_and_do_no_harm():
    training = np.concatenate([made_up(40, 0), made_up(4, 0)])
    found = find_copies(examined(np.concatenate([training[:2], made_up(8, 3)])), examined(training))
    assert found.copies == 2 and found.observed.count == 8
    assert len(found.warnings) == 1 and "there twice" in found.warnings[0]


def test_blurred_or_collapsed_models_are_not_copying():
    training, fresh = made_up(24, 0), made_up(12, 5)
    for generated in (
        ndimage.gaussian_filter(fresh, (0, 0.7, 0.7, 0.7, 0)),
        0.1 * fresh + 0.9 * training.mean(axis=0),
        1.5 * fresh + made_up(1, 6),
    ):
        assert find_copies(examined(generated), examined(training), false_alarms=0.01).copies == 0


def test_a_likeness_to_many_subjects_is_no_copy_of_one():
    correlations = np.full((2, 30), 0.1)
    correlations[0, 7] = 0.9
    correlations[1, :12] = 0.9
    scores = margins(correlations, np.arange(30), BEHIND)
    np.testing.assert_allclose(scores, [np.arctanh(0.9) - np.arctanh(0.1), 0], atol=1e-9)


def test_too_few_to_calibrate_on():
    generated, training = examined(made_up(3, 1)), examined(np.concatenate([made_up(4, 0), made_up(1, 1)]))
    found = find_copies(generated, training)
    assert not found.calibrated and found.copies is None and found.share is None and not found.flagged.any()
    assert "copies not counted" in found.warnings[0]
    assert found.closest[0] == 0 and found.nearest[0] == 4
    few_held_out = find_copies(generated, examined(made_up(12, 0)), examined(made_up(3, 2)))
    assert few_held_out.calibrated and "only 3 held-out volumes" in few_held_out.warnings[0]
    assert find_copies(generated, training, examined(made_up(12, 2))).calibrated


def test_copies_of_two_subjects_are_found_too():
    training = made_up(2, 0)
    found = find_copies(
        examined(np.concatenate([training, made_up(2, 1)])), examined(training), examined(made_up(12, 2))
    )
    assert found.calibrated and found.flagged.tolist() == [True, True, False, False]
    assert find_copies(examined(training), examined(training)).copies is None


@pytest.mark.parametrize(
    ("generated", "more", "words"),
    [
        (made_up(1, 0), {}, "1 generated volume"),
        (made_up(3, 0)[:, :4], {}, "give \\[n, d, h, w\\]"),
        (np.full_like(made_up(3, 0), np.nan), {}, "not finite"),
        (made_up(3, 0), {"subjects": [1, 2]}, "2 subjects of 12"),
        (made_up(3, 0), {"subjects": ["one"] * 12}, "of one subject"),
        (made_up(3, 0), {"false_alarms": 0.0}, "false-alarm rate of 0.0"),
    ],
)
def test_refuses(generated, more, words):
    with pytest.raises(ValueError, match=words):
        find_copies(examined(generated), examined(made_up(12, 1)), **more)
