from pathlib import Path

import pytest

from data_pipelines.scans import SPLITS, Scan, split


def scans(n_subjects: int, visits: int = 1) -> list[Scan]:
    return [Scan(f"{n:03d}-{v}", f"{n:03d}", Path(f"{n}-{v}.nii")) for n in range(n_subjects) for v in range(visits)]


def subjects(sides: dict[str, tuple[Scan, ...]]) -> dict[str, set[str]]:
    return {side: {scan.subject for scan in sides[side]} for side in SPLITS}


def test_subjects_stay_together_and_none_is_lost():
    sides = split(scans(40, visits=3), (0.8, 0.1, 0.1))
    by_side = subjects(sides)
    assert {side: len(names) for side, names in by_side.items()} == {"train": 32, "validation": 4, "test": 4}
    assert sum(len(side) for side in sides.values()) == 120
    assert not by_side["train"] & by_side["validation"] and not by_side["train"] & by_side["test"]
    assert not by_side["validation"] & by_side["test"]


def test_order_of_scans_does_not_matter():
    assert split(scans(20), (0.7, 0.2, 0.1)) == split(scans(20)[::-1], (0.7, 0.2, 0.1))


def test_the_division_is_not_alphabetical():
    names = sorted(scan.name for scan in split(scans(20), (0.5, 0.5, 0.0))["train"])
    assert names != [f"{n:03d}-0" for n in range(10)] and names != [f"{n:03d}-0" for n in range(10, 20)]


@pytest.mark.parametrize(
    ("n", "fractions", "expected"),
    [
        (1, (0.8, 0.1, 0.1), (1, 0, 0)),
        (2, (0.8, 0.1, 0.1), (1, 1, 0)),
        (3, (0.9, 0.0, 0.1), (2, 1, 0)),
        (3, (0.1, 0.1, 0.8), (1, 1, 1)),
        (10, (8, 1, 1), (8, 1, 1)),
    ],
)
def test_small_datasets(n, fractions, expected):
    assert tuple(len(side) for side in split(scans(n), fractions).values()) == expected
