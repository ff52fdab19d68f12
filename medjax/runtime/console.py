"""Tells people on stderr how a job gets on; stdout is for results."""

import sys


def say(text: str, end: str = "\n") -> None:
    """Progress, on stderr."""
    print(text, end=end, file=sys.stderr, flush=True)
