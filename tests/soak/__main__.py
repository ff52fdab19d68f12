"""Runs the parts of the soak one after the other and sums up: `make soak`, or `python -m soak --help` with tests/ on the path."""

import argparse
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable

from soak.tally import DIFFERENCE, FAILURES, LIMIT, LOSS, TRACEBACK, Tally

# By part: its share of the minutes, and what is counted.
PARTS = {
    "kills": (0.34, "kill"),
    "two_processes": (0.13, "kill"),
    "full_disks": (0.15, "disk"),
    "flips": (0.13, "flip"),
    "fuzz": (0.13, "file"),
    "long_steps": (0.12, "run"),
}
STEPS_A_SECOND = 60  # of the long run on a slow computer, where minutes and not steps are given


def main(argv: list[str]) -> int:
    """Runs what is asked for; returns 0, or 1 if anything was lost."""
    options = parse(argv)
    if sys.platform == "linux" and os.geteuid() == 0 and not options.own_mounts and shutil.which("unshare"):
        # What is mounted in there is gone with the last process of it, however that ends.
        again = [sys.executable, "-m", "soak", *argv, "--own-mounts"]
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *again])
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="soak-", dir=options.folder.absolute()))
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax wonders at every checkpoint that is read part by part
    begin, tallies = time.monotonic(), []
    for part, count in wanted(options).items():
        share, unit = PARTS[part]
        seconds = None if count else share * 60 * options.minutes
        if part == "long_steps":
            steps = count or max(200, int(STEPS_A_SECOND * seconds))
            tally = Tally(part, options.seed, 1, None, options.first, unit)
            job = (steps,)
        else:
            tally = Tally(part, options.seed, count, seconds, options.first, unit)
            job = ()
        try:
            part_of(part)(tally, folder, *job)
        except Exception as error:  # the other parts shall still be run
            tally.fail(TRACEBACK, f"the part ended with {type(error).__name__}: {error}", options.first, folder)
        tally.end()
        tallies.append(tally)
    print(table(tallies), file=sys.stderr)
    failed = sum(tally.of_kind(kind) for tally in tallies for kind in FAILURES)
    if not failed:
        shutil.rmtree(folder)
    parts = {tally.part: tally.as_json() for tally in tallies}
    totals = {"seed": options.seed, "seconds": round(time.monotonic() - begin, 1), "failed": failed}
    print(json.dumps(totals | {"parts": parts}))
    return 1 if failed else 0


def parse(argv: list[str]) -> argparse.Namespace:
    """Reads what is asked for."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for all parts together, where no counts are given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help=f"parts, after commas: {', '.join(PARTS)}")
    parser.add_argument("--first", type=int, default=0, help="the number of the first round, to try a failure again")
    parser.add_argument("--count", type=int, help="tries of each part that has no count of its own")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs"), help="for what failures leave")
    parser.add_argument("--own-mounts", action="store_true", help="mounts made here are seen by no other process")
    for part in PARTS:
        parser.add_argument(f"--{part.replace('_', '-')}", type=int, help="tries, in place of a share of the minutes")
    options = parser.parse_args(argv)
    if unknown := {part for part in options.only.split(",") if part} - PARTS.keys():
        parser.error(f"--only={options.only}: {', '.join(sorted(unknown))} is none of {', '.join(PARTS)}")
    return options


def wanted(options: argparse.Namespace) -> dict[str, int | None]:
    """Lists the parts to run, each with how many tries; None: as many as its share of the minutes allows."""
    counts = {part: getattr(options, part) for part in PARTS}
    chosen = [part for part in options.only.split(",") if part] or [part for part in PARTS if counts[part]]
    return {part: counts[part] or options.count for part in chosen or PARTS}


def part_of(part: str) -> Callable[..., None]:
    """Finds what runs a part, with a tally and a folder."""
    from soak.bit_flips import flip_bits
    from soak.chains import Place
    from soak.full_disk import fill_disks
    from soak.fuzz import fuzz
    from soak.kills import kill_jobs
    from soak.long_run import run_for_long
    from soak.two_processes import kill_one_of_two

    if part == "fuzz":
        return fuzz
    runs = {
        "kills": kill_jobs,
        "two_processes": kill_one_of_two,
        "full_disks": fill_disks,
        "flips": flip_bits,
        "long_steps": run_for_long,
    }[part]
    return lambda tally, folder, *more: runs(tally, Place.of(folder), *more)


def table(tallies: list[Tally]) -> str:
    """Makes the summary, as docs/reliability.md has it."""
    lines = ["", "| part | tries | of which | losses | tracebacks | differences | limits | seconds |", "|" + "---|" * 8]
    for tally in tallies:
        told = [f"{count} {name}" for name, count in sorted(tally.outcomes.items())] + tally.notes
        counts = [str(tally.of_kind(kind)) for kind in (LOSS, TRACEBACK, DIFFERENCE, LIMIT)]
        row = [tally.part.replace("_", " "), str(tally.tries), "; ".join(told), *counts, f"{tally.seconds:.0f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
