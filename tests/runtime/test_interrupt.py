import contextlib
import gc
import os
import signal
import sys
import time

import pytest

from medjax.runtime.interrupt import Interrupt, NothingToSave


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    before = [signal.getsignal(number) for number in Interrupt.SIGNALS], sys.unraisablehook
    yield
    assert ([signal.getsignal(number) for number in Interrupt.SIGNALS], sys.unraisablehook) == before


def ask_to_stop():
    os.kill(os.getpid(), signal.SIGTERM)


def wait():
    """Until what is awaited raises; a minute at most."""
    for _ in range(6000):
        time.sleep(0.01)


class AsksToStop:
    """When it is deleted."""

    def __del__(self):
        ask_to_stop()


def test_before_the_first_step_it_raises_at_once():
    with pytest.raises(NothingToSave), Interrupt():
        ask_to_stop()


@pytest.mark.parametrize("times", [1, 2])
def test_where_a_finalizer_swallowed_it_it_is_raised_again_without_a_report(times, capsys):
    with pytest.raises(NothingToSave), Interrupt():
        for _ in range(times):
            AsksToStop()
        wait()
    assert capsys.readouterr().err == ""


def test_where_the_garbage_collector_swallowed_it_it_is_raised_again_without_a_report(capsys):
    def callback(phase, info):
        gc.callbacks.remove(callback)
        ask_to_stop()

    with pytest.raises(NothingToSave), Interrupt():
        gc.callbacks.append(callback)
        gc.collect()
        wait()
    assert capsys.readouterr().err == ""


def test_where_anything_else_swallowed_it_it_raises_before_the_first_step():
    with Interrupt() as interrupt:
        with contextlib.suppress(NothingToSave):
            ask_to_stop()
        with pytest.raises(NothingToSave):
            interrupt.defer()


def test_it_is_not_raised_after_the_run():
    asked = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    with Interrupt():
        AsksToStop()
    time.sleep(3 * Interrupt.MOMENT)
    signal.signal(signal.SIGTERM, before)
    assert asked == []


def test_other_reports_are_made(monkeypatch):
    class Fails:
        def __del__(self):
            raise ValueError("in a finalizer")

    reports = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(str(report.exc_value)))
    with Interrupt():
        Fails()
    assert reports == ["in a finalizer"]
    monkeypatch.undo()


@pytest.mark.parametrize("first", Interrupt.SIGNALS)
def test_a_request_on_the_way_in_leaves_nothing_behind(first, monkeypatch):
    set_handler = signal.signal

    def set_and_ask(number, handler):
        set_handler(number, handler)
        if number == first and handler == interrupt._handle:
            os.kill(os.getpid(), first)

    interrupt = Interrupt()
    monkeypatch.setattr(signal, "signal", set_and_ask)
    with pytest.raises(NothingToSave), interrupt:
        pass


def test_who_takes_the_hook_meanwhile_keeps_it(monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # put back at the end
    with Interrupt():
        taken = sys.unraisablehook = lambda report: None
    assert sys.unraisablehook is taken


@pytest.fixture
def asked():
    """Which signals came through to whoever handled them before."""
    asked = []
    before = {number: signal.signal(number, lambda n, _: asked.append(n)) for number in Interrupt.SIGNALS}
    yield asked
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", Interrupt.SIGNALS)
def test_later_it_is_only_noted(number, asked, capsys):
    with Interrupt() as interrupt:
        interrupt.defer()
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
    assert asked == []
    assert f"{signal.Signals(number).name}: saving a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("first", Interrupt.SIGNALS)
def test_repeats_of_sigterm_do_not_end_the_save(first, asked):
    with Interrupt() as interrupt:
        interrupt.defer()
        os.kill(os.getpid(), first)
        ask_to_stop()
        ask_to_stop()
        assert asked == []
    ask_to_stop()
    assert asked == [signal.SIGTERM]  # afterwards it is as it was


def test_a_sigterm_long_after_the_first_is_meant(asked, monkeypatch):
    monkeypatch.setattr(Interrupt, "REPEATS", 0.0)
    with Interrupt() as interrupt:
        interrupt.defer()
        ask_to_stop()
        time.sleep(0.01)
        ask_to_stop()
        assert asked == [signal.SIGTERM]


@pytest.mark.parametrize("first", Interrupt.SIGNALS)
def test_ctrl_c_after_the_first_request_is_meant(first, asked):
    with Interrupt() as interrupt:
        interrupt.defer()
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), signal.SIGINT)
        assert asked == [signal.SIGINT]


def test_several_processes_defer_early_and_again():
    with Interrupt() as interrupt:
        interrupt.defer()
        ask_to_stop()
        interrupt.defer()  # all leave together, later
        assert interrupt.requested
