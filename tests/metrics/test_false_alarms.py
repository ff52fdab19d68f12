import numpy as np
import pytest

from medjax.metrics.false_alarms import _fitted, _quantile, limit_of, observed


def exponential(rng, rank, size):
    return rng.exponential(size=(*size, rank)).max(axis=-1)


@pytest.mark.parametrize(("n", "rank"), [(10, 2), (40, 2), (40, 10)])
def test_the_threshold_is_passed_as_often_as_asked_for(n, rank):
    """Whatever the location and the scale, the error of the fit included, if the scores are as the theory has them."""
    rng = np.random.default_rng(n)
    passed = []
    for scores in -3 + 0.2 * exponential(rng, rank, (300, n)):
        limit = limit_of(scores, rank, 0.05)
        passed.append(-np.expm1(rank * np.log(-np.expm1(-max(0.0, limit.threshold + 3) / 0.2))))
        assert limit.error > 0
    if n < 19:  # where there are enough, those that were seen raise it
        np.testing.assert_allclose(np.mean(passed), 0.05, atol=4 * np.std(passed) / np.sqrt(300))
    else:
        assert 0.02 < np.mean(passed) < 0.05


def test_median_and_quartiles_are_those_of_the_distribution():
    location, scale = _fitted(2 + 0.3 * _quantile(np.linspace(0, 1, 40_001)[1:-1], 2), 2)
    np.testing.assert_allclose([location, scale], [2, 0.3], rtol=1e-3)


def test_volumes_that_stand_out_raise_the_threshold_and_duplicates_do_not_hide_copies():
    scores = exponential(np.random.default_rng(0), 2, (200,))
    plain = limit_of(scores, 2, 0.01).threshold
    odd, doubled = scores.copy(), scores.copy()
    odd[:4], doubled[:20] = 1.4 * plain, 10 * plain
    assert limit_of(odd, 2, 0.01).threshold == pytest.approx(1.4 * plain)
    assert plain < limit_of(doubled, 2, 0.01).threshold < 3 * plain


@pytest.mark.parametrize("heavy", [False, True], ids=["as the theory has them", "a tenth of them heavy-tailed"])
def test_the_interval_of_the_rate_holds_what_new_volumes_give(heavy):
    """19 times in 20; of 40 sets of 100 volumes at most six miss."""
    rng, missed = np.random.default_rng(1), 0

    def draw(n):
        return exponential(rng, 2, (n,)) * np.where(heavy & (rng.random(n) < 0.1), 3, 1)

    for _ in range(40):
        scores = draw(100)
        rate = np.mean(draw(2000) > limit_of(scores, 2, 0.01).threshold)
        seen = observed([scores], 2, 0.01)
        assert seen.count == seen.flagged.sum()
        missed += not seen.low <= rate <= seen.high
    assert missed <= 6


def test_a_volume_is_judged_by_the_threshold_of_the_others():
    scores = exponential(np.random.default_rng(0), 2, (200,))
    scores[7] = 100.0  # the threshold, which it sets itself, it does not pass
    assert observed([scores], 2, 0.005).flagged[7]
    both = observed([scores, np.roll(scores, 1)], 2, 0.005)
    assert both.flagged[[7, 8]].all()
    assert both.chance(0.0001) < 0.05 < both.chance(0.01)
