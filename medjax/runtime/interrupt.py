"""Stops a run from outside without losing a step, at SIGTERM (a scheduler) and Ctrl-C."""

import _thread
import os
import signal
import sys
import threading
import time
from types import FrameType


class NothingToSave(BaseException):
    """Tells that the run was asked to stop before its first step."""


class Interrupt:
    """Turns SIGTERM and Ctrl-C, inside this context, into a request to save and leave.

    The first signal raises NothingToSave, or, once `defer` was called, only sets `requested`, for the loop to save and leave.
    A second one does what it does by default; but SIGTERMs that follow the first request within `REPEATS` seconds are passed
    over, for some launchers and schedulers send several, and the save must not die of them.

    What is raised inside a finalizer or a callback of the garbage collector (JAX has one) goes no further: Python reports it
    and carries on. Here it is not reported but raised once more, a moment later or when the main thread is back in Python.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)
    MOMENT = 0.05  # seconds, for the finalizer to end
    REPEATS = 10.0  # seconds

    def __init__(self):
        self.requested = False
        self._deferring = False
        self._previous = {}
        self._again = None

    def __enter__(self) -> "Interrupt":
        self._previous_hook = sys.unraisablehook
        self._listen()  # may raise already, and leaves nothing behind then
        sys.unraisablehook = self._when_swallowed
        return self

    def __exit__(self, *_: object) -> None:
        self._listen_no_more()
        # If checkpoints.hush_relayed_failures wrapped the hook meanwhile, it still calls this one: leave it then.
        if sys.unraisablehook == self._when_swallowed:
            sys.unraisablehook = self._previous_hook

    def defer(self) -> None:
        """Tells that from now on there is something to save first.

        Raises:
          NothingToSave: the run was asked to stop before, and what was running then swallowed that.
        """
        if self.requested and not self._deferring:
            raise NothingToSave
        self._deferring = True

    def _listen(self) -> None:
        for number in self.SIGNALS:
            self._previous[number] = signal.getsignal(number)  # known before the first request can come
            signal.signal(number, self._handle)

    def _listen_no_more(self) -> None:
        if self._again:
            self._again.cancel()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, _: FrameType | None) -> None:
        self._listen_no_more()
        self.requested = True
        if not self._deferring:
            raise NothingToSave
        self._pass_over_repeats()
        print(f"\n{signal.Signals(number).name}: saving a checkpoint, then leaving", file=sys.stderr)

    def _pass_over_repeats(self) -> None:
        before, first = signal.getsignal(signal.SIGTERM), time.monotonic()

        def handle(number: int, _: FrameType | None) -> None:
            if time.monotonic() - first > self.REPEATS:
                signal.signal(number, before)
                os.kill(os.getpid(), number)

        self._previous = {signal.SIGTERM: before}  # put back at the end
        signal.signal(signal.SIGTERM, handle)

    def _when_swallowed(self, report: "sys.UnraisableHookArgs") -> None:
        if not issubclass(report.exc_type, NothingToSave):
            self._previous_hook(report)
            return
        if not self._previous:
            self._listen()
        self._again = threading.Timer(self.MOMENT, _thread.interrupt_main, [signal.SIGTERM])
        self._again.daemon = True
        self._again.start()
