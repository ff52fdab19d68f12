"""Long preparations say how far they are, on stderr."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Passes `items` on, and keeps one line on stderr: how many of `total`, how fast, how long still.

    On a terminal the line renews itself; into a file it is written every ten seconds and at the end.
    """
    start = last = time.monotonic()
    terminal = sys.stderr.isatty()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if done == total or now - last > (0.2 if terminal else 10):
            last = now
            rate = done / max(now - start, 1e-9)
            line = f"{what}: {done}/{total}, {rate:.1f}/s, {(total - done) / rate:.0f} s left"
            ends = "\n" if done == total or not terminal else "\r"
            print(line.ljust(78) if terminal else line, end=ends, file=sys.stderr, flush=True)
