from pathlib import Path, PurePath

import pytest

from long_tests import LONG, SHORT, is_long

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", LONG + SHORT)
def test_what_is_listed_is_there(name):
    assert (TESTS / name).exists()


def test_a_new_file_is_short_until_it_or_its_folder_is_listed():
    assert not is_long(PurePath("metrics/test_new.py"))
    assert not is_long(PurePath("jobs_of_the_future/test_new.py"))
    assert is_long(PurePath("test_launch.py")) and is_long(PurePath("jobs/test_new.py"))
    assert all(is_long(PurePath(name).parent / "test_other.py") for name in SHORT)
