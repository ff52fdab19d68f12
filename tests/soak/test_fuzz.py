"""A few hundred damaged files of every kind, read in a worker process."""

from soak.fuzz import fuzz, target_of
from soak.readers import targets
from soak.tally import Tally


def test_every_damaged_file_ends_in_a_result_or_in_one_line(tmp_path):
    tally = Tally("fuzz", seed=3, count=250, seconds=None)
    fuzz(tally, tmp_path)
    assert tally.tries == 250
    assert tally.failures == []
    assert tally.outcomes["one line"] > 25 and tally.outcomes["result"] > 25


def test_all_kinds_of_files_are_tried():
    drawn = {target_of(3, number).name for number in range(1000)}
    assert drawn == {target.name for target in targets()}
