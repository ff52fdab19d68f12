"""Measures how fast a loop runs when nothing interrupts it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Counts steps against time, leaving out what happens inside `paused()` (evaluation, checkpoints)."""

    def __init__(self):
        self.steps = 0
        self._paused_seconds = 0.0
        self._start = time.perf_counter()

    def step(self, count: int) -> None:
        self.steps += count

    @contextmanager
    def paused(self) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self._paused_seconds += time.perf_counter() - begin

    @property
    def rate(self) -> float | None:
        """Returns steps a second since the start; None before the first step."""
        if not self.steps:
            return None
        return self.steps / (time.perf_counter() - self._start - self._paused_seconds)
