import contextlib
import os
import signal

import pytest

from medjax.runtime.interrupt import Interrupt, NothingToSave


def test_before_the_first_step_it_raises_at_once():
    with pytest.raises(NothingToSave), Interrupt():
        os.kill(os.getpid(), signal.SIGTERM)


def test_where_that_was_swallowed_it_raises_before_the_first_step():
    with Interrupt() as interrupt:
        with contextlib.suppress(NothingToSave):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(NothingToSave):
            interrupt.defer()


def test_later_it_is_only_noted(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt() as interrupt:
        interrupt.defer()
        assert not interrupt.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
    assert signal.getsignal(signal.SIGTERM) == before
    assert "SIGTERM: saving a checkpoint" in capsys.readouterr().err


def test_several_processes_defer_early_and_again():
    with Interrupt() as interrupt:
        interrupt.defer()
        os.kill(os.getpid(), signal.SIGTERM)
        interrupt.defer()  # all leave together, later
        assert interrupt.requested
