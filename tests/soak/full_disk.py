"""The disk is full at a random point of a job: one line and status 2; with room again the same command ends in the same bits."""

import ctypes
import os
import pathlib
import shutil
import subprocess

from soak.chains import CHAINS, Place, differences, left
from soak.launcher import run
from soak.tally import DIFFERENCE, LOSS, TRACEBACK, Tally

SIZE = 256 * 2**20  # bytes of the disk
BLOCK = 4096


def fill_disks(tally: Tally, place: Place, chains=CHAINS) -> None:
    """Runs chains of jobs on a disk of their own, which is filled before each of them; one full disk is one try.

    Needs to be root, in a mount namespace of its own (`python -m soak` makes one): else it says so and tries nothing.
    """
    disk = place.folder / "disk"
    disk.mkdir()
    if not mount(disk):
        tally.notes.append("skipped: needs root, to mount a small disk")
        return
    try:
        for number, rng in tally.rounds():
            chain = chains[number % len(chains)]
            expected, _ = place.undisturbed(chain)
            folder = disk / f"disk_{number}"
            logs = place.folder / f"logs_of_disk_{number}"  # elsewhere, where there is room
            before = len(tally.failures)
            jobs = chain(folder, place.scans)
            usual = written(place.folder / f"undisturbed_{chain.__name__}") // len(jobs)
            for job in jobs:
                if tally.goes_on:
                    filler = fill(disk, int(rng.random() * usual))
                    room, ended = shutil.disk_usage(disk).free, run(job.argv, logs, place.environment(folder))
                    filler.unlink()
                    tally.add("room enough" if ended.status == 0 else f"full in {job.name}")
                    if ended.status != 0 and not ended.in_one_line:
                        tally.fail(TRACEBACK, f"{job.name} with {room} bytes free ends: {ended.told}", number, logs)
                ended = run(job.argv, logs, place.environment(folder))
                if ended.status != 0:
                    tally.fail(LOSS, f"{job.name}, with room again, ends: {ended.told}", number, logs)
                    break
            else:
                if wrong := differences(expected, left(folder)):
                    told = f"{chain.__name__}, after full disks: {len(wrong)} differ, {', '.join(wrong[:4])}"
                    tally.fail(DIFFERENCE, told, number, logs)
            if len(tally.failures) > before:
                shutil.copytree(folder, logs / "disk", dirs_exist_ok=True)
            else:
                shutil.rmtree(logs)
            shutil.rmtree(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=False)


def mount(disk: pathlib.Path) -> bool:
    """Mounts an empty disk of SIZE bytes, which other processes than this one and its own do not see; False if it may not."""
    if os.geteuid() != 0:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.mount(b"tmpfs", os.fsencode(disk), b"tmpfs", 0, f"size={SIZE}".encode()) == 0


def written(folder: pathlib.Path) -> int:
    """Estimates how many bytes of a disk the files in a folder take."""
    return sum(path.stat().st_size + BLOCK for path in folder.rglob("*") if path.is_file())


def fill(disk: pathlib.Path, room: int) -> pathlib.Path:
    """Writes a file that leaves so many bytes of the disk."""
    free = shutil.disk_usage(disk).free
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - room, 1))
    return filler
