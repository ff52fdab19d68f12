"""A few tries of every part that disturbs whole jobs; `make soak` makes hundreds."""

import pytest

from soak.bit_flips import Kind, flip_bits
from soak.chains import Place, short
from soak.full_disk import fill_disks
from soak.kills import kill_jobs
from soak.long_run import run_for_long
from soak.tally import Tally

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One for all, since what is undisturbed is made but once."""
    return Place(tmp_path_factory.mktemp("soak"), hurry=True)


def test_jobs_killed_at_random_end_in_the_bits_of_no_kill(place):
    tally = Tally("kills", seed=1, count=3, seconds=None)
    kill_jobs(tally, place, (short,))
    assert tally.failures == []
    assert tally.tries >= 3


def test_flipped_bits_are_found_or_harmless(place):
    tally = Tally("flips", seed=1, count=2, seconds=None)
    kinds = (
        Kind("checkpoint", short, 1, ("on_scans/checkpoints/**/*",), ("on_scans/samples",)),
        Kind("decoded scans", short, 0, ("cache/decoded/*/*.nii",), ("on_scans",)),
    )
    flip_bits(tally, place, kinds)
    assert tally.failures == []
    assert tally.tries == 2


def test_a_full_disk_is_one_line_and_damages_nothing(place):
    tally = Tally("full disks", seed=1, count=1, seconds=None)
    fill_disks(tally, place, (short,))
    if tally.notes:
        pytest.skip(tally.notes[0])
    assert tally.failures == []
    assert tally.tries == 1


def test_what_a_run_takes_is_watched_to_its_end(place):
    tally = Tally("long run", seed=1, count=1, seconds=None)
    run_for_long(tally, place, steps=20)
    assert tally.tries == 1 and len(tally.notes) == 3
