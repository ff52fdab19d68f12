import pytest

from medjax.benchmarking import timing
from medjax.benchmarking.timing import Timing, measure


class Clock:
    """A clock that only work moves on: `fast` takes 0.1 s, `slow` 1 s, the first time 10 s longer."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def work(self, name, seconds):
        def repeat(calls):
            self.now += calls * seconds + (0 if name in self.order else 10)
            self.order += [name] * calls

        return repeat


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    return clock


def test_windows_take_turns_and_the_first_call_does_not_count(clock):
    found = measure(
        {"fast": clock.work("fast", 0.125), "slow": clock.work("slow", 1.0)}, windows=3, seconds=0.5, limit=1e9
    )
    assert found == {"fast": Timing((0.125,) * 3, 4), "slow": Timing((1.0,) * 3, 1)}
    assert clock.order == ["fast"] * 2 + ["slow"] * 2 + (["fast"] * 4 + ["slow"]) * 3


def test_no_further_round_begins_after_the_limit(clock):
    found = measure({"slow": clock.work("slow", 2.0)}, windows=9, seconds=0.5, limit=3.0)
    assert found["slow"].windows == (2.0, 2.0)


def test_spread_is_the_range_of_the_windows():
    timing = Timing((1.0, 4.0, 2.0), 1)
    assert (timing.median, timing.spread) == (2.0, 1.5)
