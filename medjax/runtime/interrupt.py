"""Stopping a run from outside without losing a step: SIGTERM (a scheduler) and Ctrl-C."""

import signal
import sys
from types import FrameType


class NothingToSave(BaseException):
    """The run was asked to stop before its first step."""


class Interrupt:
    """Inside this context the first SIGTERM or Ctrl-C raises NothingToSave, or, once `defer` was called, only sets `requested`,
    for the loop to save and leave. A second one does what it does by default.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.requested = False
        self._deferring = False
        self._previous = {}

    def __enter__(self) -> "Interrupt":
        self._previous = {number: signal.signal(number, self._handle) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def defer(self) -> None:
        """From now on there is something to save first.

        Raises:
          NothingToSave: the run was asked to stop before, and what was running then swallowed that, as finalizers do.
        """
        if self.requested and not self._deferring:
            raise NothingToSave
        self._deferring = True

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.__exit__()
        self.requested = True
        if not self._deferring:
            raise NothingToSave
        print(f"\n{signal.Signals(number).name}: saving a checkpoint, then leaving", file=sys.stderr)
