"""What became of the tries of one part, and how long it may go on."""

import collections
import dataclasses
import itertools
import random
import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

# How a try fails, in the words of the summary.
LOSS = "loss"  # a run cannot go on, or something of it is gone
TRACEBACK = "traceback"  # a job ended in anything but its result or one line
DIFFERENCE = "difference"  # another result than that of an undisturbed run, or damage used without a word
LIMIT = "limit"  # longer, or more memory, than is allowed
FAILURES = (LOSS, TRACEBACK, DIFFERENCE, LIMIT)


@dataclasses.dataclass(frozen=True)
class Failure:
    """One try that failed.

    Attributes:
      kind: one of FAILURES.
      told: what happened, in one line.
      again: the command that tries it again.
      evidence: the folder of what it left.
      times: how often that happened, where failures of one cause are told once.
    """

    kind: str
    told: str
    again: str
    evidence: str
    times: int = 1


class Tally:
    """Counts the tries of a part; goes on until there were enough of them, or the time is up.

    Args:
      part: its name.
      seed: of all parts.
      count: tries wanted; None: as many as the time allows.
      seconds: after which no further try begins; None: no limit.
      first: the number of the first try.
      unit: what is counted.
    """

    def __init__(self, part: str, seed: int, count: int | None, seconds: float | None, first: int = 0, unit="try"):
        self.part, self.seed, self.count, self.first = part, seed, count, first
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.failures: list[Failure] = []
        self.notes: list[str] = []
        self.tries = 0
        self._alike: dict[str, int] = {}
        self._unit, self._begin, self._seconds = unit, time.monotonic(), seconds
        self._end: float | None = None

    @property
    def seconds(self) -> float:
        """The seconds since the part began, to its end where it has one."""
        return (time.monotonic() if self._end is None else self._end) - self._begin

    def end(self) -> None:
        """Stops the clock."""
        self._end = time.monotonic()

    @property
    def goes_on(self) -> bool:
        """Whether there shall be another try."""
        return (self.count is None or self.tries < self.count) and (
            self._seconds is None or self.seconds < self._seconds
        )

    def rounds(self) -> Iterator[tuple[int, random.Random]]:
        """Yields numbers of rounds and what each draws from while the part goes on; a round may be of several tries."""
        with tqdm(total=self.count, desc=self.part, unit=self._unit, file=sys.stderr, mininterval=1.0) as progress:
            for number in itertools.count(self.first):
                if not self.goes_on:
                    return
                yield number, random.Random(f"{self.seed} {self.part} {number}")
                progress.update(self.tries - progress.n)
                progress.set_postfix_str(f"{len(self.failures)} failed", refresh=False)

    def add(self, outcome: str, tries: int = 1) -> None:
        """Counts tries that ended well, as `outcome` says."""
        self.tries += tries
        self.outcomes[outcome] += tries

    def fail(self, kind: str, told: str, number: int, evidence: object, alike: str | None = None) -> None:
        """Notes a failure in round `number`; the tries themselves are counted by `add`.

        Args:
          alike: of failures that share it only the first is told.
        """
        if alike is not None and alike in self._alike:
            place = self._alike[alike]
            self.failures[place] = dataclasses.replace(self.failures[place], times=self.failures[place].times + 1)
            return
        if alike is not None:
            self._alike[alike] = len(self.failures)
        part = self.part.replace(" ", "_")
        again = f"make soak ONLY={part} SEED={self.seed} FIRST={number} COUNT=1"
        self.failures.append(Failure(kind, " ".join(told.split())[:400], again, str(evidence)))
        print(
            f"\n{self.part}, round {number}: {kind}: {told}\n  evidence: {evidence}\n  again: {again}", file=sys.stderr
        )

    def of_kind(self, kind: str) -> int:
        """Counts the failures of one kind."""
        return sum(failure.times for failure in self.failures if failure.kind == kind)

    def as_json(self) -> dict:
        """Gives plain data for the last line of `make soak`."""
        return {
            "tries": self.tries,
            "outcomes": dict(self.outcomes),
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "notes": self.notes,
            "seconds": round(self.seconds, 1),
        }
