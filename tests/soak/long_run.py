"""One run of many tiny steps, watched from outside: memory, open files and threads must not grow with the steps."""

import json
import os
import pathlib
import shutil
import time

import numpy as np

from small_runs import FOLDER
from soak.chains import COMMON, UNET, Place
from soak.launcher import TOO_LONG, Run
from soak.tally import LIMIT, TRACEBACK, Tally

GLANCE = 0.25  # seconds between two looks
SETTLED = 0.3  # of the steps, after which nothing may grow any more
# How much each may grow in a run, from where it has settled to its end; a leak of one a checkpoint would exceed it.
ALLOWED = {"memory, MiB": 24.0, "open files": 3.0, "threads": 3.0}


def run_for_long(tally: Tally, place: Place, steps: int) -> None:
    """Trains for so many steps with all that a run does on the way, which is one try, and notes what grew how fast.

    Args:
      steps: of which checkpoints, validations and rows of metrics are made at fixed shares, some hundreds in all.
    """
    for number, _ in tally.rounds():
        folder = place.folder / f"long_{number}"
        every = max(steps // 100, 1)
        cadence = (
            f"--config.train.steps={steps}",
            f"--config.train.checkpoint_every={every}",
            f"--config.train.eval_every={2 * every}",
            f"--config.train.log_every={max(every // 10, 1)}",
        )
        given = {argument.partition("=")[0] for argument in cadence}
        kept = (argument for argument in (*COMMON, *UNET) if argument.partition("=")[0] not in given)
        data = (f"--config.data.root={place.scans}", f"--config.data.cache={folder}/cache")
        argv = ("launch.py", FOLDER, *data, *kept, *cadence, "--mode=train", f"--workdir={folder}/run")
        run = Run(argv, folder / "logs", place.environment(folder))
        looks = watched(run, folder / "run/metrics.jsonl")
        ended = run.end(TOO_LONG)
        tally.add(f"{steps} steps")
        if ended.status != 0:
            tally.fail(TRACEBACK, f"{steps} steps end: {ended.told}", number, folder)
            continue
        failed = False
        for name, (slope, growth) in growths(looks, steps).items():
            tally.notes.append(f"{name}: {slope:+.3f} a thousand steps")
            if growth > ALLOWED[name]:
                tally.fail(LIMIT, f"{name} grows by {growth:.1f} in {steps} steps", number, folder)
                failed = True
        (folder / "looks.json").write_text(json.dumps(looks))
        if not failed:
            shutil.rmtree(folder)


def watched(run: Run, rows: pathlib.Path) -> list[dict[str, float]]:
    """Looks at what a run takes until its end: step, memory, open files and threads, four times a second."""
    looks = []
    while run.runs:
        time.sleep(GLANCE)
        try:
            step = last_step(rows)
            status = pathlib.Path(f"/proc/{run.pid}/status").read_text()
            fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            looks.append(
                {
                    "step": step,
                    "memory, MiB": int(fields["VmRSS"].split()[0]) / 1024,
                    "open files": len(os.listdir(f"/proc/{run.pid}/fd")),
                    "threads": int(fields["Threads"]),
                }
            )
        except (OSError, KeyError):  # no row yet, or it has just ended
            continue
    return looks


def last_step(rows: pathlib.Path) -> int:
    """Reads the step of the last whole row of metrics.jsonl."""
    with rows.open("rb") as file:
        file.seek(max(0, rows.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines(keepends=True)
    whole = [line for line in lines[-3:] if line.startswith("{") and line.endswith("}\n")]
    return json.loads(whole[-1])["step"] if whole else 0


def growths(looks: list[dict[str, float]], steps: int) -> dict[str, tuple[float, float]]:
    """Fits growth, by name: in a thousand steps, and in the whole settled part of a run."""
    settled = [look for look in looks if look["step"] >= SETTLED * steps]
    x = np.array([look["step"] for look in settled], float)
    found = {}
    for name in ALLOWED:
        y = np.array([look[name] for look in settled], float)
        slope = float(np.polyfit(x, y, 1)[0]) if len(set(x.tolist())) > 1 else 0.0
        found[name] = 1000 * slope, slope * (1 - SETTLED) * steps
    return found
