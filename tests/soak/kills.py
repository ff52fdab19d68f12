"""SIGKILL at random moments of every job, again and again, each time started anew: the end is that of a run never killed."""

import pathlib
import random
import shutil
import signal
import time

from soak.chains import CHAINS, Job, Place, differences, left
from soak.launcher import Ended, Run
from soak.tally import DIFFERENCE, LIMIT, LOSS, TRACEBACK, Tally

MOST_KILLS = 5  # of one job in one round
BEFORE = 0.15  # of a job's time nothing is written yet: kills come after that more often
GLANCE = 0.004  # seconds between two looks at the folder


def kill_jobs(tally: Tally, place: Place, chains=CHAINS) -> None:
    """Runs chains of jobs, one a round, each job killed up to MOST_KILLS times; one kill is one try."""
    for number, rng in tally.rounds():
        chain = chains[number % len(chains)]
        expected, seconds = place.undisturbed(chain)
        folder = place.folder / f"kills_{number}"
        try:
            for job, usual in zip(chain(folder, place.scans), seconds, strict=True):
                for _ in range(rng.randint(1, MOST_KILLS) if tally.goes_on else 0):
                    run = Run(job.argv, folder / "logs", place.environment(folder))
                    wait_for_moment(run, rng, usual, folder)
                    run.kill()
                    if ended_well(run.end(), job):
                        break  # before it was killed: nothing is left to do
                    tally.add(f"killed in {job.name}")
                ended_well(Run(job.argv, folder / "logs", place.environment(folder)).end(), job)
        except Lost as lost:
            tally.fail(*lost.args, number, folder)
            continue
        if wrong := differences(expected, left(folder)):
            told = f"{chain.__name__}: {len(wrong)} differ, {', '.join(wrong[:4])}"
            tally.fail(DIFFERENCE, told, number, folder)
        else:
            shutil.rmtree(folder)


class Lost(Exception):
    """A job does not go on after it was killed; what kind of failure that is, and what it said."""


def ended_well(ended: Ended, job: Job) -> bool:
    """Tells whether a run came to its end; False where it was killed.

    Raises:
      Lost: it ended in any other way.
    """
    if ended.status not in (0, -signal.SIGKILL):
        kind = LIMIT if ended.status is None else LOSS if ended.in_one_line else TRACEBACK
        raise Lost(kind, f"{job.name}, killed and started again, ends: {ended.told}")
    return ended.status == 0


def wait_for_moment(run: Run, rng: random.Random, usual: float, folder: pathlib.Path) -> None:
    """Waits for a moment of a run: a random time, or shortly after a random number of new files.

    Args:
      run: which may end before.
      usual: seconds that such a run takes.
      folder: that it writes into.
    """
    begin = time.monotonic()
    if rng.random() < 0.5:
        wait = usual * rng.uniform(BEFORE, 1.0)
        while run.runs and time.monotonic() - begin < wait:
            time.sleep(GLANCE)
        return
    known, seen, wanted = names(folder), 0, rng.randint(1, 40)
    while run.runs and seen < wanted and time.monotonic() - begin < 2 * usual:
        there = names(folder)
        seen += len(there - known)
        known = there
        time.sleep(GLANCE)
    time.sleep(rng.uniform(0, 0.02))


def names(folder: pathlib.Path) -> set[str]:
    """Names everything below a folder, but for its logs."""
    found: set[str] = set()
    pending = [folder]
    while pending:
        try:
            for path in pending.pop().iterdir():
                found.add(str(path))
                if path.is_dir() and path.name != "logs":
                    pending.append(path)
        except OSError:  # gone, or not there yet
            continue
    return found
