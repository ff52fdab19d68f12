"""Tells people on stderr how a job gets on; stdout is for results."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# What libraries of CUDA print when they are loaded on a computer without a GPU, whatever they are told not to log.
NO_DRIVER = ("before absl::InitializeLog() is called", "Could not find cuda drivers")


def say(text: str, end: str = "\n") -> None:
    """Progress, on stderr."""
    print(text, end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def without_lines(noise: tuple[str, ...]) -> Iterator[None]:
    """Prints what comes to stderr meanwhile, from native code as well, only afterwards, less lines that hold any of `noise`."""
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as held, contextlib.ExitStack() as restored:
        stderr = os.dup(2)
        restored.callback(os.close, stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            held.seek(0)
            for line in held:
                if not any(text in line for text in noise):
                    print(line, end="", file=sys.stderr)
