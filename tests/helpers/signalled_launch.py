"""Runs launch.py, which sends itself a signal at a certain point: `python signalled_launch.py SIGNAL FUNCTION CALL ARGUMENTS...`

A signal from the test would come early or late as the machine is idle or busy, after the end of a short run even.
FUNCTION is MODULE:NAME, such as medjax.runtime.metrics_log:MetricsLog.write; the signal is sent when its CALL-th call ends.
"""

import functools
import importlib
import itertools
import os
import pathlib
import runpy
import sys

LAUNCH = pathlib.Path(__file__).parents[2] / "launch.py"

if __name__ == "__main__":
    number, place, last, *arguments = sys.argv[1:]
    sys.path.insert(0, str(LAUNCH.parent))
    module, _, name = place.partition(":")
    *owners, name = name.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def then_signalled(*args, **kwargs):
        result = function(*args, **kwargs)
        if next(calls) == int(last):
            os.kill(os.getpid(), int(number))
        return result

    setattr(owner, name, then_signalled)
    sys.argv = [str(LAUNCH), *arguments]
    runpy.run_path(str(LAUNCH), run_name="__main__")
