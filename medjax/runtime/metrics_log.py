"""Logs numbers of a run over time: `metrics.jsonl`, one JSON object a line, and the same as TensorBoard events."""

import json
import math
import pathlib
import time
from collections.abc import Mapping

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from medjax.runtime.workdir import written_aside


class MetricsLog:
    """Writes rows of metrics and pictures for one process; give `workdir` None on the processes that must not write.

    Args:
      workdir: the run's folder.
      step: the step that the run goes on from. Rows after it, and a torn last line, are of a run that was
        interrupted before its next checkpoint: they are dropped, for they will be written again. At step 0 that is
        all of them, for a run that begins is evaluated before its first step.
    """

    def __init__(self, workdir: pathlib.Path | None, step: int):
        self._rows = None
        if workdir is None:
            return
        first = step + 1 if step else 0  # of the rows to come
        drop_rows_from(workdir / "metrics.jsonl", first)
        self._rows = (workdir / "metrics.jsonl").open("a")
        # Synchronous: tensorboardX's usual writer is a thread, whose failures nobody would hear of.
        self._events = EventsWriter(str(workdir / "events"))
        # TensorBoard forgets what earlier files say of this step and later ones.
        self._add_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one row; a value that is not finite is null there and absent from TensorBoard."""
        if self._rows is None:
            return
        values = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        self._rows.write(json.dumps({"step": step, **values}) + "\n")
        self._rows.flush()
        for name, value in values.items():
            if value is not None:
                self._add_event(Event(step=step, summary=summary.scalar(name, value)))
        self._events.flush()

    def write_picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Writes a grey picture, [H, W] uint8, for TensorBoard alone."""
        if self._rows is None:
            return
        self._add_event(Event(step=step, summary=summary.image(name, pixels[None], dataformats="CHW")))
        self._events.flush()

    def close(self) -> None:
        """Closes the files; may be called again."""
        if self._rows is not None:
            self._rows.close()
            self._events.close()
            self._rows = None

    def _add_event(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)


def drop_rows_from(path: pathlib.Path, step: int) -> None:
    """Keeps the whole rows of steps before `step`; the file is replaced in one move, and only if something is to go."""
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if (row := _row(line)) is not None and row["step"] < step]
    if kept != lines:
        with written_aside(path) as aside:
            aside.write_bytes(b"".join(kept))


def last_values(path: pathlib.Path) -> dict[str, float]:
    """Reads the latest value of every metric in a `metrics.jsonl`; empty where there is none."""
    values: dict[str, float] = {}
    for row in read_rows(path):
        values |= row
    return values


def read_rows(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads the whole rows of a `metrics.jsonl`, each with its step; none where there is no such file."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [row for line in lines if (row := _row(line)) is not None]


def _row(line: bytes) -> dict[str, float] | None:
    """Reads a row; None for a line that was torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
