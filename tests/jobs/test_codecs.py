"""Diffusion on voxels and on the Haar transform of latents, through launch.py: trained, gone on with, sampled, told a class."""

import json

import pytest

from small_runs import ROOT, launch, result, write_scans
from test_latents import command as medical_command

STEPS = ("--config.train.checkpoint_every=2", "--config.train.eval_every=4", "--config.train.ema_decay=0.5")
VOXELS = (
    f"--config={ROOT}/configs/folder.py:tiny,voxels",
    "--config.model.base_channels=4",
    "--config.model.groups=2",
    "--config.model.channel_multipliers=(1,2)",
    "--config.model.classes=2",
    "--config.data.size=(16,16,16)",
    "--config.data.batch_size=2",
    "--config.mesh.data=1",
    "--config.train.eval_volumes=2",
    "--config.sample.count=2",
    "--config.sample.batch_size=2",
    "--config.sample.steps=3",
)


def voxels(folder, name, *more):
    data = (f"--config.data.root={folder}/scans", f"--config.data.cache={folder}/cache", f"--workdir={folder}/{name}")
    return ["launch.py", *VOXELS, f"--config.data.labels={folder}/labels.csv", *data, *more]


def latents(folder, name, *more):
    argv = medical_command("ddpm", folder / "scans", folder, f"--workdir={folder}/{name}", *more)
    return [argument.replace(":folder,ddpm,tiny", ":folder,ddpm,haar,tiny") for argument in argv]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Scans, half of them of class 1, and a VQ-GAN of two steps."""
    import launch

    folder = tmp_path_factory.mktemp("codecs")
    scans = write_scans(folder / "scans")
    names = sorted(path.name.partition(".")[0] for path in scans.iterdir())
    (folder / "labels.csv").write_text("".join(f"{name},{n % 2}\n" for n, name in enumerate(names)))
    first = medical_command("vqgan", scans, folder, "--mode=train", "--config.train.steps=2")
    assert launch.main(first) == 0
    return folder


def fingerprints(workdir):
    """Of every array of the model after four steps, by its path."""
    return json.loads((workdir / "checkpoints/4/fingerprints/metadata").read_text())["model"]


@pytest.mark.parametrize("command", [voxels, latents])
def test_trained_in_two_goes_it_is_the_same_to_the_bit_and_is_sampled(command, folder, capsys):
    for name, goes in (("at_once", (4,)), ("in_two", (2, 4))):
        for steps in goes:
            argv = command(
                folder, f"{command.__name__}_{name}", *STEPS, "--mode=train", f"--config.train.steps={steps}"
            )
            assert launch(argv, capsys)[0] == 0
    at_once, in_two = (folder / f"{command.__name__}_{name}" for name in ("at_once", "in_two"))
    assert fingerprints(at_once) == fingerprints(in_two)
    status, out, _ = launch(command(folder, at_once.name, "--mode=sample"), capsys)
    assert (status, result(out)["drawn"]) == (0, 2)
    assert (at_once / "samples/sample_00001.nii.gz").exists() and (at_once / "samples/montage.png").exists()


def test_a_class_is_asked_for_and_pulls(folder, capsys):
    drawn = {}
    for name, more in {"any": (), "one": ("--config.sample.label=1", "--config.sample.guidance=2")}.items():
        assert launch(voxels(folder, "voxels_at_once", "--mode=sample", *more), capsys)[0] == 0
        drawn[name] = (folder / "voxels_at_once/samples/sample_00000.nii.gz").read_bytes()
    assert drawn["any"] != drawn["one"]
