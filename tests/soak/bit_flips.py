"""Random bits are flipped in checkpoints, records and caches: that is found and told, or the result is the same to the bit."""

import pathlib
import random
import re
import shutil
from collections.abc import Iterable, Sequence

from soak.chains import Job, Place, differences, left, medical, wavelet
from soak.launcher import run
from soak.tally import DIFFERENCE, LIMIT, TRACEBACK, Tally

MORE = "--config.train.steps=13"
PROGRAMS = ("programs/*",)


class Kind:
    """A kind of file that a job reads.

    Args:
      name: for people.
      chain: whose job that is.
      job: its number in the chain.
      files: patterns of the files, in the chain's folder.
      without: folders that the job shall make anew.
      more: arguments besides.
    """

    def __init__(self, name: str, chain, job: int, files: tuple[str, ...], without: tuple[str, ...], more=()):
        self.name, self.chain, self.files, self.without = name, chain, files, without
        self._job, self._more = job, more

    def job(self, folder: pathlib.Path, scans: pathlib.Path) -> Job:
        """Names the job that reads such files, in a folder."""
        job = self.chain(folder, scans)[self._job]
        given = {argument.partition("=")[0] for argument in self._more}
        kept = (argument for argument in job.argv if argument.partition("=")[0] not in given)
        return Job(job.name, (*kept, *self._more))


KINDS = (
    Kind("checkpoint, to train on", wavelet, 1, ("run/checkpoints/10/**/*",), (), (MORE,)),
    Kind("checkpoint, to sample", wavelet, 2, ("run/checkpoints/**/*",), ("run/samples",)),
    Kind("records", wavelet, 1, ("records/*",), ("run",)),
    Kind("decoded scans", wavelet, 4, ("cache/decoded/*/*",), ("on_scans",)),
    Kind("compiled programs", wavelet, 2, PROGRAMS, ("run/samples",)),
    Kind("features of volumes", wavelet, 3, ("user_cache/**/*",), ("run/evaluation",)),
    Kind("VQ-GAN under a diffusion", medical, 2, ("vqgan/checkpoints/**/*",), ("ddpm",)),
    Kind("records of latents", medical, 2, ("latents/*",), ("ddpm",)),
    Kind("checkpoint of a latent diffusion", medical, 2, ("ddpm/checkpoints/10/**/*",), (), (MORE,)),
    Kind("checkpoint of a VQ-GAN", medical, 0, ("vqgan/checkpoints/10/**/*",), (), (MORE,)),
)


def flip_bits(tally: Tally, place: Place, kinds: Sequence[Kind] = KINDS) -> None:
    """Flips bits in one file that a job reads, and lets that job go on; one flip is one try."""
    expected: dict[str, dict[str, object]] = {}
    for number, rng in tally.rounds():
        kind = kinds[number % len(kinds)]
        place.undisturbed(kind.chain)
        if kind.name not in expected:
            folder = place.folder / f"unflipped_{len(expected)}"
            ended = run(*prepared(kind, folder, place))
            if ended.status != 0:
                raise RuntimeError(f"{kind.name}, nothing flipped: {ended.told}; see {folder}")
            expected[kind.name] = left(folder)
            shutil.rmtree(folder)
        folder = place.folder / f"flips_{number}"
        argv, logs, variables = prepared(kind, folder, place)
        flipped, bits = flip(folder, kind.files, rng)
        ended = run(argv, logs, variables)
        told = f"{kind.name}: {flipped} bits {bits} flipped, {ended.told}"
        if ended.status is None:
            tally.fail(LIMIT, told, number, folder)
        elif ended.status != 0 and not ended.in_one_line:
            tally.fail(TRACEBACK, told, number, folder)
        elif ended.status == 0 and (wrong := not_of(flipped, differences(expected[kind.name], left(folder)))):
            tally.fail(DIFFERENCE, f"{told}; {len(wrong)} differ, {', '.join(wrong[:3])}", number, folder)
        else:
            shutil.rmtree(folder)
        tally.add(f"{kind.name}: {'harmless' if ended.status == 0 else 'found'}")


def not_of(flipped: str, names: Iterable[str]) -> list[str]:
    """Drops what is just as it was flipped, where the job does not read it: a test subject's record, an optimiser's state."""
    checkpoint = re.fullmatch(r"(\w+)/checkpoints/(\d+)/.*", flipped)
    own = f"{checkpoint[1]}/step {checkpoint[2]}" if checkpoint else flipped
    return sorted(name for name in names if not name.startswith(own))


def prepared(kind: Kind, folder: pathlib.Path, place: Place) -> tuple[Sequence[str], pathlib.Path, dict[str, str]]:
    """Copies what a chain has left, but for what shall be made anew; returns the arguments of `run` that reads such files."""
    shutil.copytree(place.folder / f"undisturbed_{kind.chain.__name__}", folder)
    for name in kind.without:
        shutil.rmtree(folder / name)
    variables = place.environment(folder)
    if kind.files == PROGRAMS:
        shutil.copytree(variables["JAX_COMPILATION_CACHE_DIR"], folder / "programs")
        variables["JAX_COMPILATION_CACHE_DIR"] = str(folder / "programs")
    return kind.job(folder, place.scans).argv, folder / "logs", variables


def flip(folder: pathlib.Path, patterns: tuple[str, ...], rng: random.Random) -> tuple[str, str]:
    """Flips a bit, sometimes several, of one file; returns its name in the folder and which bits.

    Every second time files are as likely as they are long, else all alike.
    """
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    files = [path for path in files if path.stat().st_size]
    weights = [path.stat().st_size for path in files] if rng.random() < 0.5 else None
    (path,) = rng.choices(files, weights)
    content, bits = bytearray(path.read_bytes()), rng.choice((1, 1, 1, 2, 8))
    flipped = [rng.randrange(8 * len(content)) for _ in range(bits)]
    for bit in flipped:
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return str(path.relative_to(folder)), ", ".join(map(str, flipped[:3]))
