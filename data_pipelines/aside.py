"""Writes a file beside its final name and renames it, so that no reader ever meets half a file."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the folder of `path`, made if need be, that takes its name when the block ends well.

    The temporary name ends in the name of `path`, and so in its suffix; an existing file of that name is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left in a folder that only this project writes to, under the caller's lock."""
    for path in folder.rglob(".unfinished-*"):
        path.unlink(missing_ok=True)
