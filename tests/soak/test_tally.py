from soak.__main__ import parse, table, wanted
from soak.tally import DIFFERENCE, LOSS, TRACEBACK, Tally


def test_a_round_draws_from_seed_part_and_number_alone():
    def drawn(seed: int, first: int, count: int) -> list[float]:
        tally, found = Tally("kills", seed, count, None, first), []
        for _, rng in tally.rounds():
            found.append(rng.random())
            tally.add("ok")
        return found

    whole = drawn(1, 0, 5)
    assert drawn(1, 3, 2) == whole[3:]
    assert drawn(2, 0, 5) != whole


def test_failures_of_one_cause_are_told_once_and_counted_each(tmp_path):
    tally = Tally("fuzz", 3, 10, None)
    for number in range(4):
        tally.fail(TRACEBACK, "KeyError\nat x", number, tmp_path, alike="x")
    tally.fail(LOSS, "gone", 7, tmp_path)
    assert [failure.times for failure in tally.failures] == [4, 1]
    assert [tally.of_kind(kind) for kind in (LOSS, TRACEBACK, DIFFERENCE)] == [1, 4, 0]
    assert tally.failures[0].again == "make soak ONLY=fuzz SEED=3 FIRST=0 COUNT=1"
    assert tally.failures[0].told == "KeyError at x"


def test_the_table_has_a_row_a_part():
    tally = Tally("kills", 0, 1, None)
    tally.add("killed in train", 2)
    *_, row = table([tally]).splitlines()
    assert row.startswith("| kills | 2 | 2 killed in train | 0 | 0 | 0 | 0 |")


def test_parts_are_those_named_those_counted_or_all():
    every = ["kills", "two_processes", "full_disks", "flips", "fuzz", "long_steps"]
    assert wanted(parse([])) == dict.fromkeys(every)
    assert wanted(parse(["--kills=3", "--fuzz=9"])) == {"kills": 3, "fuzz": 9}
    assert wanted(parse(["--only=flips,fuzz", "--count=2"])) == {"flips": 2, "fuzz": 2}
