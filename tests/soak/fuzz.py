"""Thousands of damaged files, each read as a job reads it: every outcome is a result or one line, soon and in little memory.

The files are read in worker processes, many by each, so that one that hangs or dies is noticed, counted and replaced.
"""

import contextlib
import dataclasses
import io
import logging
import pathlib
import random
import re
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection

from soak.launcher import forks
from soak.readers import Target, targets
from soak.tally import LIMIT, TRACEBACK, Tally

SECONDS = 5.0  # that one input may take
MIB = 160  # that reading one may take of memory; the good files take a few
ADDRESS_SPACE = 2 * 2**30  # bytes that a worker may ask for besides what it has to begin with
LONGEST_LINE = 800  # characters
BEGIN_SECONDS = 600.0  # for a worker to import everything and write the good files
AT_A_TIME = 200  # inputs that a worker is asked for


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one input.

    Attributes:
      target: the name of the kind of file.
      kind: "result", "one line", or a kind of failure.
      told: what was said, or is wrong.
      alike: failures of one cause share it.
    """

    target: str
    kind: str
    told: str = ""
    alike: str = ""


def fuzz(tally: Tally, folder: pathlib.Path) -> None:
    """Damages files and reads them; one file is one try. Failures of one cause are told once and counted each."""
    evidence = folder / "fuzz"
    evidence.mkdir(parents=True, exist_ok=True)
    told: set[str] = set()
    inputs = outcomes(tally.seed, tally.first, tally.count)
    for (number, _), (found, at) in zip(tally.rounds(), inputs, strict=False):
        assert number == at
        if found.kind in (LIMIT, TRACEBACK):
            if found.alike not in told:
                told.add(found.alike)
                keep_evidence(tally.seed, number, evidence / str(number))
            tally.fail(found.kind, f"{found.target}: {found.told}", number, evidence / str(number), alike=found.alike)
        tally.add(found.kind if found.kind in ("result", "one line") else "failed")
    inputs.close()


def outcomes(seed: int, first: int, count: int | None) -> Iterator[tuple[Outcome, int]]:
    """Yields what becomes of input after input, with its number."""
    number, end = first, None if count is None else first + count
    worker = Worker(seed)
    try:
        while end is None or number < end:
            asked = range(number, number + AT_A_TIME if end is None else min(end, number + AT_A_TIME))
            worker.ask(asked)
            for at in asked:
                outcome = worker.outcome(at)
                yield outcome, at
                number = at + 1
                if not worker.lives:
                    worker = Worker(seed)
                    break
    finally:
        worker.end()


class Worker:
    """A process that reads damaged files."""

    def __init__(self, seed: int):
        self._seed, self.lives = seed, True
        self._pipe, theirs = forks().Pipe()
        self._folder = tempfile.mkdtemp(prefix="soak-fuzz-")
        self._process = forks().Process(target=_work, args=(seed, self._folder, theirs), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(BEGIN_SECONDS) or self._pipe.recv() != "ready":
            raise RuntimeError("the fuzzer's worker does not begin")

    def ask(self, numbers: range) -> None:
        """Asks for the inputs of these numbers."""
        self._pipe.send(numbers)

    def outcome(self, number: int) -> Outcome:
        """Waits for that of the next input that was asked for; a worker that hangs or died `lives` no longer."""
        target = target_of(self._seed, number).name
        try:
            if self._pipe.poll(SECONDS + 1.0):
                return self._pipe.recv()
            self.end()
            return Outcome(target, LIMIT, f"takes more than {SECONDS:.0f} s", f"{target} time")
        except (EOFError, OSError):
            self.end()
            status = self._process.exitcode
            return Outcome(target, TRACEBACK, f"the process died, status {status}", f"{target} died {status}")

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self.lives = False
        self._process.kill()
        self._process.join()
        shutil.rmtree(self._folder, ignore_errors=True)


def target_of(seed: int, number: int) -> Target:
    """Draws which kind of file the input of this number is."""
    known = targets()
    (chosen,) = random.Random(f"{seed} fuzz target {number}").choices(known, [target.weight for target in known])
    return chosen


def damage(target: Target, folder: pathlib.Path, seed: int, number: int) -> dict[pathlib.Path, bytes]:
    """Damages one of the good files in a folder, as it is in the input of this number; returns the file as it was."""
    rng = random.Random(f"{seed} fuzz {number}")
    files = sorted({path for pattern in target.files for path in folder.glob(pattern) if path.is_file()})
    path = rng.choice(files)
    good = path.read_bytes()
    path.write_bytes(target.damage(good, rng))
    return {path: good}


def keep_evidence(seed: int, number: int, folder: pathlib.Path) -> None:
    """Makes an input again, to be looked at."""
    folder.mkdir()
    target = target_of(seed, number)
    with quiet():
        target.write(folder)
        damage(target, folder, seed, number)


def _work(seed: int, folder: str, pipe: Connection) -> None:
    """Reads inputs until nobody asks any more."""
    good = pathlib.Path(folder)
    with quiet():
        for target in targets():  # imports and compiles what the first of each needs
            place = good / target.name
            place.mkdir()
            target.write(place)
            shutil.copytree(place, good / "tried")
            target.read(good / "tried")
            shutil.rmtree(good / "tried")
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESS_SPACE, -1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pipe.send("ready")
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            for number in pipe.recv():
                pipe.send(_try(target_of(seed, number), good, seed, number))


def _try(target: Target, good: pathlib.Path, seed: int, number: int) -> Outcome:
    """Reads one damaged file, in a copy of the good ones."""
    from data_pipelines.errors import DataError
    from medjax.errors import UserError

    place = good / "tried"
    shutil.copytree(good / target.name, place)
    with quiet():
        damage(target, place, seed, number)
    before, begin, error = peak_memory(anew=True), time.monotonic(), None
    try:
        with quiet():
            target.read(place)
    except Exception as raised:
        error = raised
    seconds, grown = time.monotonic() - begin, (peak_memory() - before) / 2**20
    try:
        if seconds > SECONDS:
            return Outcome(target.name, LIMIT, f"takes {seconds:.1f} s", f"{target.name} time")
        if grown > MIB or out_of_memory(error):
            told = f"takes {grown:.0f} MiB" if grown > MIB else "asks for more memory than there may be"
            return Outcome(target.name, LIMIT, told, f"{target.name} memory")
        if error is None:
            return Outcome(target.name, "result")
        line = str(error)
        if not isinstance(error, (DataError, UserError)):
            where = next(
                (f for f in reversed(traceback.extract_tb(error.__traceback__)) if "site-packages" not in f.filename),
                None,
            )
            at = f"{pathlib.Path(where.filename).name}:{where.lineno}" if where else "?"
            kind = type(error).__name__
            return Outcome(target.name, TRACEBACK, f"{kind} at {at}: {line[:160]!r}", f"{target.name} {kind} {at}")
        if re.search(r"[\n\r\0]", line) or len(line) > LONGEST_LINE:
            told = f"not one line, or longer than {LONGEST_LINE}: {line[:120]!r}"
            return Outcome(target.name, TRACEBACK, told, f"{target.name} line {line[-40:]!r}")
        return Outcome(target.name, "one line", line)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def out_of_memory(error: BaseException | None) -> bool:
    """Tells whether it comes from a request for memory that was refused, however it was told in the end."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def peak_memory(anew: bool = False) -> int:
    """Reads the most bytes of memory that this process has had, since it was asked `anew`."""
    if anew:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Throws away what is printed, warned of and logged inside."""
    nowhere = io.StringIO()
    with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable()
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
