"""Eight virtual devices for every test; `--golden=DIR`: the reference files for the parity tests (golden_files.py).

`make check` runs what is not marked `long`: long_tests.py lists the files that are. A new file is in `make check` until it is
listed there; `--seconds=30`, which `make check` gives, fails a file that takes more of a processor than that.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from golden_files import GoldenFile, golden_files, kind_of
from long_tests import is_long
from xla_flags import xla_flags

# Before anything imports jax. Whoever asks for a smaller mesh gets the first of them.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " " + xla_flags(8)

# Whole runs compile the same small networks again and again: once is enough. Their own processes, and the workers that
# share the tests, inherit this.
if "PYTEST_XDIST_WORKER" not in os.environ:
    CACHE = tempfile.TemporaryDirectory(prefix="medjax-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"

TESTS = Path(__file__).parent
CLAIMED = pytest.StashKey[set]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", type=Path, default=TESTS / "golden", help="folder of reference .npz files")
    parser.addoption("--seconds", type=float, help="of a processor, which no file's tests may take; by default any")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "golden(kind, *groups): run for every reference file of this kind, as `golden`")
    config.stash[CLAIMED] = set()
    if not any(kind_of(path) for path in config.getoption("golden").glob("*.npz")):
        raise pytest.UsageError(f"--golden={config.getoption('golden')} holds no .npz file of a known kind")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if markers := list(metafunc.definition.iter_markers("golden")):
        folder = metafunc.config.getoption("golden")
        paths = [path for marker in markers for path in golden_files(folder, *marker.args)]
        metafunc.config.stash[CLAIMED].update(paths)
        cases = [pytest.param(path, id=path.stem, marks=pytest.mark.parity) for path in paths]
        metafunc.parametrize("golden", cases, indirect=True)


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_long(item.path.relative_to(TESTS)):
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True, scope="module")
def no_file_takes_long_that_is_not_listed(request: pytest.FixtureRequest):
    before = processor_seconds()
    yield
    taken, allowed = processor_seconds() - before, request.config.getoption("seconds")
    if allowed is not None and taken > allowed:
        pytest.fail(
            f"{request.path.name} took {taken:.0f} s of a processor, make check allows {allowed:.0f} a file: make it cheaper, "
            "or list it in tests/helpers/long_tests.py, and only make test runs it"
        )


def processor_seconds() -> float:
    """Those of this process and of all that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.fixture(autouse=True, scope="module")
def compiled_programs_go_with_their_file():
    """Those of all files together are gigabytes, which Python's collector walks again and again."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> GoldenFile:
    return GoldenFile(request.param)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A reference file that no test reads would be silently untested, so it fails a run over the whole tree."""
    whole_tree = any(Path(argument).resolve() in (TESTS, TESTS.parent) for argument in session.config.args)
    files = session.config.getoption("golden").glob("*.npz")
    unread = sorted(path.name for path in files if kind_of(path) and path not in session.config.stash[CLAIMED])
    if whole_tree and unread:
        raise pytest.UsageError(f"no test reads {', '.join(unread)}: add a test of that kind, or of its keys")
