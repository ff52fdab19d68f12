"""What ruff does not check of docstrings: that the first line is a sentence with a verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("medjax", "data_pipelines", "configs", "benchmarks")
FILES = sorted([ROOT / "launch.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
NO_SENTENCE = re.compile(r"(Of|By|As|From|In|What)\b")
A_VERB = re.compile(r"[A-Z][a-z]+s\b(?!:)")
# Rooms whose functions, classes and files all begin with a verb: "Returns the rows ..."; the others follow.
WITH_VERBS = (
    "layers", "metrics", "xla", "interop", "runtime", "benchmarking", "planning", "diffusion", "models",
)  # fmt: skip


def first_lines(path: Path) -> Iterator[tuple[str, str]]:
    """(place, first line) of every docstring in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := ast.get_docstring(node)):
            yield f"{path.relative_to(ROOT)}:{node.body[0].lineno}", docstring.splitlines()[0]


def test_no_docstring_begins_in_the_middle_of_a_sentence():
    found = [f"{place}: {line}" for path in FILES for place, line in first_lines(path) if NO_SENTENCE.match(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("room", WITH_VERBS)
def test_docstrings_begin_with_a_verb(room):
    paths = sorted((ROOT / "medjax" / room).rglob("*.py"))
    assert paths
    found = [f"{place}: {line}" for path in paths for place, line in first_lines(path) if not A_VERB.match(line)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "begins_with_a_verb"),
    [
        ("Returns the rows of a batch.", True),
        ("The rows of a batch.", False),
        ("[n, d] rows.", False),
        ("Args: none.", False),
        ("Of a batch.", False),
    ],
)
def test_a_verb_is_told_from_other_words(line, begins_with_a_verb):
    assert bool(A_VERB.match(line)) == begins_with_a_verb
