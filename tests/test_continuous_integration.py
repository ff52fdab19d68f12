"""What continuous integration runs is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_tests_it_names_exist():
    named = re.findall(r"\btests/[\w/.]*\w", (ROOT / ".ci/run").read_text())
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
