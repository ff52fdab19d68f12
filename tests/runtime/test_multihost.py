import numpy as np
import pytest

from medjax.errors import UserError
from medjax.runtime import multihost
from two_processes import work_of_two


def test_two_processes_are_told_the_same():
    first, second = work_of_two("decisions")
    assert first["answers"] == second["answers"] == [False, False, False, True, False]
    assert first["as_first"] == second["as_first"] == 5
    assert (first["together"], second["together"]) == ("0", "1")
    assert second["second_fails"] == "UserError: bad file"
    assert "process 0 stops because process 1 did" in first["second_fails"]
    assert first["first_fails"] == "UserError: bad folder"
    assert "process 1 stops because process 0 did" in second["first_fails"]
    assert first["same"] == second["same"] == "None"
    assert "process 1 has another configuration" in second["different"]
    assert "process 0 stops because process 1 did" in first["different"]


def test_one_process_agrees_with_itself_at_once():
    any_of = multihost.AnyOf()
    assert [any_of(vote) for vote in (False, True, False)] == [False, True, False]
    assert multihost.on_all_processes(lambda: 3) == 3
    multihost.check_same({"steps": 3})
    np.testing.assert_array_equal(multihost.broadcast_from_first(np.arange(3)), np.arange(3))

    def fails() -> None:
        raise UserError("bad file")

    with pytest.raises(UserError, match="bad file"):
        multihost.on_first_process(fails)
