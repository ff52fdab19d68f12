"""What runs withstand, measured: kills, lost processes, full disks, flipped bits, damaged files and long runs.

`make soak` runs all parts (docs/reliability.md); the tests beside them run a few tries of each. A part draws what it does in
round N from (seed, part, N) alone, so that a failure can be tried again.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOMS = (
    TESTS.parent,
    TESTS,
    TESTS / "helpers",
    TESTS / "interop",
    TESTS / "data_pipelines/formats",
)  # whose helpers are used here
sys.path[:0] = [str(room) for room in ROOMS if str(room) not in sys.path]
