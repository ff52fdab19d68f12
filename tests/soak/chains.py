"""The jobs that are disturbed, in the order in which each needs what the one before it made, and what they leave."""

import dataclasses
import functools
import json
import pathlib
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp

from small_runs import FOLDER, ROOT, write_scans
from soak import launcher

SUBJECTS = 8
COMMON = (
    "--config.data.size=(16,16,16)",
    "--config.data.batch_size=2",
    "--config.mesh.data=1",
    "--config.train.eval_volumes=2",
    "--config.train.log_every=1",
    "--config.train.steps=10",
    "--config.train.checkpoint_every=2",
    "--config.train.eval_every=5",
    "--config.sample.count=3",
    "--config.sample.batch_size=2",
    "--config.sample.steps=3",
)
UNET = ("--config.model.base_channels=4", "--config.model.groups=2", "--config.model.channel_multipliers=(1,)")
VQGAN = (
    "--config.losses.perceptual=0.0",
    "--config.losses.discriminator_start=2",
    "--config.model.discriminator_layers=1",
    "--config.model.codes=16",
)
DDPM = ("--config.model.base_channels=8", "--config.model.groups=2")
MEDICAL = f"--config={ROOT}/configs/medical_diffusion.py:folder"


@dataclasses.dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
      name: of the job, for people.
      argv: the command line.
    """

    name: str
    argv: tuple[str, ...]


def wavelet(folder: pathlib.Path, scans: pathlib.Path) -> tuple[Job, ...]:
    """Lists the jobs of WDM: scans to records, a diffusion on these, samples, their evaluation; and one on the scans."""
    places = (f"--config.data.root={scans}", f"--config.data.cache={folder}/cache")
    common = ("launch.py", FOLDER, *places, *COMMON, *UNET)
    records = f"--config.data.records={folder}/records"
    run = f"--workdir={folder}/run"
    return (
        Job("prepare", (*common, "--mode=prepare", records)),
        Job("train", (*common, "--mode=train", records, run)),
        Job("sample", (*common, "--mode=sample", records, run)),
        Job("evaluate", (*common, "--mode=evaluate", records, run)),
        Job("train on scans", (*common, "--mode=train", f"--workdir={folder}/on_scans")),
    )


def medical(folder: pathlib.Path, scans: pathlib.Path) -> tuple[Job, ...]:
    """Lists the jobs of Medical Diffusion: a VQ-GAN, latents as records, a diffusion on these, samples, their evaluation."""
    places = (f"--config.data.root={scans}", f"--config.data.cache={folder}/cache", "--config.data.flip=False")
    of_vqgan = ("launch.py", f"{MEDICAL},vqgan,tiny", *places, *COMMON, *VQGAN)
    of_ddpm = ("launch.py", f"{MEDICAL},ddpm,tiny", *places, *COMMON, *DDPM, f"--config.latents.vqgan={folder}/vqgan")
    latents, run = f"--config.data.records={folder}/latents", f"--workdir={folder}/ddpm"
    return (
        Job("train the VQ-GAN", (*of_vqgan, "--mode=train", f"--workdir={folder}/vqgan")),
        Job("prepare latents", (*of_ddpm, "--mode=prepare", latents)),
        Job("train on latents", (*of_ddpm, "--mode=train", latents, run)),
        Job("sample latents", (*of_ddpm, "--mode=sample", run)),
        Job("evaluate samples of latents", (*of_ddpm, "--mode=evaluate", run)),
    )


CHAINS = (wavelet, medical)


class Place:
    """A folder for chains: the scans that all of them read, compiled programs, and what an undisturbed chain leaves.

    Args:
      folder: an empty one.
      hurry: take the seconds of jobs from runs that compile, which costs one run of each less.
    """

    def __init__(self, folder: pathlib.Path, hurry: bool = False):
        self.folder, self._times = folder, 1 if hurry else 2
        self.scans = write_scans(folder / "scans", SUBJECTS)
        self._left: dict[str, dict[str, object]] = {}
        self._seconds: dict[str, tuple[float, ...]] = {}

    @classmethod
    @functools.cache
    def of(cls, folder: pathlib.Path) -> "Place":
        """Finds the one in a folder; all who ask share what is undisturbed there."""
        return cls(folder)

    def environment(self, folder: pathlib.Path) -> dict[str, str]:
        """Gives the variables of the runs in a folder: they share compiled programs with all others, and no other cache."""
        return {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XDG_CACHE_HOME": str(folder / "user_cache"),
        }

    def undisturbed(self, chain) -> tuple[dict[str, object], tuple[float, ...]]:
        """Tells what a chain leaves that nothing disturbs (`left`), and how many seconds each of its jobs takes.

        Raises:
          RuntimeError: it does not even work.
        """
        name = chain.__name__
        if name not in self._left:
            # The second time no program is compiled, so that the seconds are those of every later run.
            for _ in range(self._times):
                folder = self.folder / f"undisturbed_{name}"
                shutil.rmtree(folder, ignore_errors=True)
                seconds = []
                for job in chain(folder, self.scans):
                    ended = launcher.run(job.argv, folder / "logs", self.environment(folder))
                    if ended.status != 0:
                        raise RuntimeError(f"undisturbed, {job.name} ends: {ended.told}; see {folder}/logs")
                    seconds.append(ended.seconds)
            self._left[name], self._seconds[name] = left(folder), tuple(seconds)
        return self._left[name], self._seconds[name]


def short(folder: pathlib.Path, scans: pathlib.Path) -> tuple[Job, ...]:
    """Lists what the tests have time for: a diffusion trained on scans, and samples."""
    *_, train = wavelet(folder, scans)
    sample = (*(argument for argument in train.argv if argument != "--mode=train"), "--mode=sample")
    return train, Job("sample", sample)


def left(folder: pathlib.Path) -> dict[str, object]:
    """Collects what the jobs in a folder have made, by name: arrays, bytes, rows; not what depends on clock or place."""
    found: dict[str, object] = {}
    for checkpoints in sorted(folder.glob("*/checkpoints")):
        found |= {f"{checkpoints.parent.name}/{name}": array for name, array in last_arrays(checkpoints).items()}
    for rows in sorted(folder.glob("*/metrics.jsonl")):
        found[str(rows.relative_to(folder))] = rows_of(rows)
    for pattern in ("*/samples/sample_*", "*/samples/montage.png", "*/*.tfrecord*", "cache/decoded/*/*.nii"):
        for path in sorted(folder.glob(pattern)):
            name = path.relative_to(folder)
            # A decoded file is named by its source's place and time, which are those of all chains.
            found[str(name)] = path.read_bytes()
    for evaluation in sorted(folder.glob("*/evaluation/metrics.json")):
        found[str(evaluation.relative_to(folder))] = json.loads(evaluation.read_text())["scores"]
    return found


def last_arrays(checkpoints: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads every array of the last checkpoint in a folder, by item and path."""
    steps = [int(path.name) for path in checkpoints.iterdir() if path.name.isdigit()]
    if not steps:
        return {}
    reader = ocp.PyTreeCheckpointer()
    items = {}
    for item in ("model", "optimizer"):
        path = checkpoints / f"{max(steps)}/{item}"
        # As numpy's, whatever devices of however many processes wrote it.
        try:
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(path).item_metadata.tree
            )
            items[item] = reader.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
        except Exception as error:  # Orbax raises nearly anything for a damaged one
            return {f"step {max(steps)} cannot be read": f"{item}: {error}"}
    flat, _ = jax.tree_util.tree_flatten_with_path(items)
    return {f"step {max(steps)}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in flat}


def rows_of(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "volumes_per_second"} for row in rows]


def differences(expected: dict[str, object], found: dict[str, object]) -> list[str]:
    """Names what is not the same, to the bit, in two of `left`."""

    def same(name: str) -> bool:
        if name not in expected or name not in found:
            return False
        one, other = expected[name], found[name]
        if isinstance(one, np.ndarray):
            return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
        return one == other

    return sorted(name for name in expected.keys() | found.keys() if not same(name))
