"""One of two processes of a run is killed: the other ends by itself, and both started again end in the bits of no kill."""

import pathlib
import shutil
import signal
import time

from small_runs import FOLDER, free_port
from soak.chains import COMMON, UNET, Place, differences, left
from soak.kills import wait_for_moment
from soak.launcher import Ended, Run
from soak.tally import DIFFERENCE, LIMIT, LOSS, TRACEBACK, Tally

BOUND = 60.0  # seconds in which the other must have ended
LOST_SECONDS = "10"  # without a word from the other one, after which it is given up
# In C++, where the service that process 0 runs is gone, or the other process is before the first exchange of arrays.
BY_JAX = "JAX distributed service detected fatal errors"
STEPS = ("--config.train.steps=15", "--config.train.checkpoint_every=3", "--config.train.eval_every=6")


def kill_one_of_two(tally: Tally, place: Place) -> None:
    """Trains in two processes, one of which is killed at a random moment, then in two again; one kill is one try."""
    expected, usual = None, 0.0
    for number, rng in tally.rounds():
        if expected is None:
            for _ in range(2):  # the second time no program is compiled
                folder = place.folder / "undisturbed_two"
                shutil.rmtree(folder, ignore_errors=True)
                ends = [run.end() for run in start_two(folder, place)]
                if [ended.status for ended in ends] != [0, 0]:
                    raise RuntimeError(f"undisturbed, two processes end: {[ended.told for ended in ends]}")
            expected, usual = left(folder), max(ended.seconds for ended in ends)
        folder = place.folder / f"two_{number}"
        victim = rng.randrange(2)
        runs = start_two(folder, place)
        wait_for_moment(runs[victim], rng, usual, folder)
        killed_at = time.monotonic()
        runs[victim].kill()
        other, killed = runs[1 - victim].end(BOUND), runs[victim].end()
        seconds = time.monotonic() - killed_at
        by_jax = other.status == -signal.SIGABRT and BY_JAX in other.err
        found = [None if by_jax else kind_of_end(other), *again(folder, place, expected)]
        if failures := [failure for failure in found if failure]:
            for kind, told in failures:
                tally.fail(kind, f"process {victim} killed after {killed.seconds:.1f} s: {told}", number, folder)
        else:
            shutil.rmtree(folder)
        how = "JAX itself ended the other" if by_jax else "the other ended"
        by_itself = f"{how} within {BOUND:.0f} s" if seconds < BOUND else "the other had to be ended"
        tally.add(
            f"process {victim} killed, {by_itself}" if killed.status == -signal.SIGKILL else "ended before the kill"
        )


def start_two(folder: pathlib.Path, place: Place) -> list[Run]:
    """Starts two processes of one run in a folder, its workdir FOLDER/run."""
    port, variables = free_port(), place.environment(folder) | {"MEDJAX_LOST_SECONDS": LOST_SECONDS}
    given = {argument.partition("=")[0] for argument in (*STEPS, "--config.mesh.data=")}
    common = (argument for argument in (*COMMON, *UNET) if argument.partition("=")[0] not in given)
    data = (f"--config.data.root={place.scans}", f"--config.data.cache={folder}/cache", "--config.mesh.data=2")
    argv = ("launch.py", FOLDER, *data, *common, *STEPS, "--mode=train", f"--workdir={folder}/run")
    together = (f"--coordinator=localhost:{port}", "--num_processes=2")
    return [Run((*argv, *together, f"--process_id={n}"), folder / "logs", variables) for n in range(2)]


def kind_of_end(other: Ended) -> tuple[str, str] | None:
    """Tells what was wrong with how the one that was not killed ended; None where nothing was."""
    if other.status is None:
        return LIMIT, f"the other had not ended after {BOUND:.0f} s"
    if other.in_one_line or (other.status == 0 and not other.has_traceback):
        return None  # it may have had all it needed
    return TRACEBACK, f"the other ended, {other.told}"


def again(folder: pathlib.Path, place: Place, expected: dict[str, object]) -> list[tuple[str, str]]:
    """Starts both again; tells what was wrong with that run."""
    ends = [run.end() for run in start_two(folder, place)]
    if [ended.status for ended in ends] != [0, 0]:
        return [(LOSS, f"started again they end: {'; '.join(ended.told for ended in ends)}")]
    wrong = differences(expected, left(folder))
    return [(DIFFERENCE, f"{len(wrong)} differ, {', '.join(wrong[:4])}")] if wrong else []
