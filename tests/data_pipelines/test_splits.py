import numpy as np
import pytest

from data_pipelines.splits import SPLITS, place, seed_that_fills, side, subjects_by_side

FRACTIONS = (0.8, 0.1, 0.1)


def sides(subjects: list[str], fractions=FRACTIONS, seed: int = 0) -> dict[str, str]:
    return {subject: side(subject, fractions, seed) for subject in subjects}


@pytest.mark.parametrize(("before", "after"), [(40, 50), (40, 30), (100, 120), (100, 90)])
def test_no_subject_moves_when_others_come_or_go(before, after):
    for data_set in range(20):
        names = [
            f"{data_set}-{n:04d}" for n in np.random.default_rng(data_set).permutation(10_000)[: max(before, after)]
        ]
        there, here = (sides(names[:count]) for count in (before, after))
        assert {name: here[name] for name in there.keys() & here.keys()} == {
            name: there[name] for name in there.keys() & here.keys()
        }


def test_places_are_even_and_of_this_seed():
    names = [f"sub-{n:05d}" for n in range(4000)]
    places = np.array([place(name, 0) for name in names])
    assert places.min() >= 0 and places.max() < 1
    # Counts of 20 equal parts: the sum of squared deviations in units of their variance stays below its 99.9 % point.
    counts = np.histogram(places, 20, (0, 1))[0]
    assert ((counts - 200) ** 2 / 200).sum() < 43.8
    assert abs(np.corrcoef(places, [place(name, 1) for name in names])[0, 1]) < 0.06


def test_places_are_the_same_on_every_machine():
    assert [round(place(name, seed), 12) for name, seed in (("sub-01", 0), ("sub-01", 1), ("Jürgen", 0))] == [
        0.626639591021,
        0.570855834963,
        0.33909974359,
    ]


def test_fractions_are_held_on_average():
    held = subjects_by_side([f"{n}" for n in range(4000)], (8, 1, 1), 0)
    assert tuple(held) == SPLITS and sum(held.values()) == 4000
    assert 3120 < held["train"] < 3280 and all(330 < held[name] < 470 for name in SPLITS[1:])


@pytest.mark.parametrize("fractions", [(1, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5)])
def test_a_fraction_of_nothing_holds_nobody(fractions):
    held = subjects_by_side([f"{n}" for n in range(200)], fractions, 3)
    assert [count > 0 for count in held.values()] == [fraction > 0 for fraction in fractions]


def test_larger_fractions_only_take_from_train():
    names = [f"{n}" for n in range(300)]
    small, large = sides(names, (0.8, 0.2, 0)), sides(names, (0.6, 0.4, 0))
    assert all(large[name] == "validation" for name in names if small[name] == "validation")


def test_a_seed_that_fills_every_side_of_a_few_subjects():
    names = ["a", "b", "c"]
    seed = seed_that_fills(names, FRACTIONS)
    assert set(subjects_by_side(names, FRACTIONS, seed).values()) == {1}
    assert all(0 in subjects_by_side(names, FRACTIONS, earlier).values() for earlier in range(seed))
    assert seed_that_fills(["a", "b"], FRACTIONS) is None
    assert seed_that_fills(["a"], (1, 0, 0)) == 0
