"""Long preparations say how far they are, how fast and how long still, on stderr."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Passes `items` on; on a terminal the line renews itself, into a file one is written every ten seconds."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    yield from tqdm(items, desc=what, total=total, mininterval=interval, file=sys.stderr, disable=total == 0)
