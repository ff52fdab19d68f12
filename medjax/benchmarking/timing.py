"""Times work so that it can be compared: medians over windows that take turns."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

from medjax.runtime import multihost

Repeat = Callable[[int], None]  # does the work so many times and returns when all of it is done


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, as seen in each window.

    Attributes:
      windows: the mean of the window's calls, in the order they were measured.
      calls: number of calls in a window.
    """

    windows: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return statistics.median(self.windows)

    @property
    def spread(self) -> float:
        """Returns the range from the fastest window to the slowest, as a share of the median."""
        return (max(self.windows) - min(self.windows)) / self.median


def measure(work: Mapping[str, Repeat], *, windows: int, seconds: float, limit: float) -> dict[str, Timing]:
    """Times several things in one run, in turns, so that a machine that slows down slows all of them.

    Each is done once before, uncounted, and once more to see how often it fits into a window.

    Args:
      work: functions to time, by name.
      windows: number of windows of each.
      seconds: the least length of a window.
      limit: seconds after which no further round of windows begins; the first is always measured.

    Returns:
      By name; processes that compute together get windows of as many calls, and each its own seconds.
    """
    calls = {}
    for name, repeat in work.items():
        repeat(1)
        calls[name] = int(multihost.broadcast_from_first(np.asarray(max(1, math.ceil(seconds / _time(repeat, 1))))))
    seen: dict[str, list[float]] = {name: [] for name in work}
    begin = time.perf_counter()
    for _ in range(windows):
        for name, repeat in work.items():
            seen[name].append(_time(repeat, calls[name]) / calls[name])
        if multihost.broadcast_from_first(np.asarray(time.perf_counter() - begin > limit)):
            break
    return {name: Timing(tuple(each), calls[name]) for name, each in seen.items()}


def _time(repeat: Repeat, calls: int) -> float:
    begin = time.perf_counter()
    repeat(calls)
    return time.perf_counter() - begin
