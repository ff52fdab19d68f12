"""The two stages of Medical Diffusion, through launch.py: a VQ-GAN, then diffusion on its latents."""

import json

import nibabel
import numpy as np
import pytest

from medjax.builders import pretrained
from small_runs import ROOT, ends, launch, result, start_all, write_scans

SMALL = (
    "--config.data.size=(16,16,16)",
    "--config.data.batch_size=2",
    "--config.mesh.data=1",
    "--config.train.eval_volumes=2",
    "--config.train.log_every=1",
    "--config.sample.count=2",
    "--config.sample.batch_size=2",
    "--config.sample.steps=3",
)
OF_VQGAN = (
    "--config.losses.perceptual=0.0",
    "--config.losses.discriminator_start=2",
    "--config.model.discriminator_layers=1",
    "--config.model.codes=16",
)
OF_DDPM = ("--config.model.base_channels=8", "--config.model.groups=2")


def command(stage: str, scans, tmp_path, *more: str) -> list[str]:
    """Arguments of a small run of one stage on a folder of scans, workdir tmp_path/STAGE."""
    own = OF_VQGAN if stage == "vqgan" else (*OF_DDPM, f"--config.latents.vqgan={tmp_path}/vqgan")
    places = (f"--config.data.root={scans}", f"--config.data.cache={tmp_path}/cache", f"--workdir={tmp_path}/{stage}")
    config = f"--config={ROOT}/configs/medical_diffusion.py:folder,{stage},tiny"
    given = {argument.partition("=")[0] for argument in more}
    kept = (argument for argument in (*places, *SMALL, *own) if argument.partition("=")[0] not in given)
    return ["launch.py", config, *kept, *more]


def steps(count: int) -> tuple[str, ...]:
    """A run of so many steps with a checkpoint at each second one."""
    return (f"--config.train.steps={count}", "--config.train.checkpoint_every=2", "--config.train.eval_every=4")


def fingerprints(workdir, step: int) -> dict:
    """Of every array of the model in a checkpoint, by its path."""
    return json.loads((workdir / f"checkpoints/{step}/fingerprints/metadata").read_text())["model"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the scans, a VQ-GAN of 4 steps in vqgan, and a diffusion of 4 steps in ddpm."""
    import launch

    folder = tmp_path_factory.mktemp("stages")
    scans = write_scans(folder / "scans")
    for stage in ("vqgan", "ddpm"):
        assert launch.main(command(stage, scans, folder, "--mode=train", *steps(4))) == 0
    return folder


def rows(workdir):
    """The losses by step."""
    read = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in read if "loss" in row}


def test_the_codebook_begins_with_latents_and_is_learned(trained):
    read = [json.loads(line) for line in (trained / "vqgan/metrics.jsonl").read_text().splitlines()]
    training = [row for row in read if "codebook/perplexity" in row]
    assert all(1 <= row["codebook/perplexity"] <= 16 for row in training)
    assert {"val_loss", "val_psnr"} <= read[0].keys() | read[1].keys()


def test_samples_lie_where_the_scans_do(trained, capsys):
    argv = command("ddpm", trained / "scans", trained, "--mode=sample")
    status, out, errors = launch(argv, capsys)
    assert status == 0, errors
    drawn = [nibabel.load(path) for path in result(out)["files"]]
    scan = nibabel.load(trained / "scans/subject_0/t1.nii.gz")
    assert drawn[0].shape == (16, 16, 16)
    assert nibabel.aff2axcodes(drawn[0].affine) == ("R", "A", "S")
    np.testing.assert_allclose(
        nibabel.affines.voxel_sizes(drawn[0].affine), nibabel.affines.voxel_sizes(scan.affine), rtol=1e-5
    )
    values = drawn[0].get_fdata()
    assert np.isfinite(values).all() and values.std() > 0
    assert not np.array_equal(values, drawn[1].get_fdata())
    assert (trained / "ddpm/samples/montage.png").exists()


def test_another_way_to_decode_is_another_set(trained, capsys):
    argv = command("ddpm", trained / "scans", trained, "--mode=sample", "--config.sample.seed=3")
    for more, drawn in (((), 2), ((), 0), (("--config.latents.tile=(8,8,8)",), 2)):
        status, out, errors = launch([*argv, *more], capsys)
        assert status == 0, errors
        assert result(out)["drawn"] == drawn


def test_a_vqgan_draws_no_samples(trained, capsys):
    status, _, errors = launch(command("vqgan", trained / "scans", trained, "--mode=sample"), capsys)
    assert status == 2
    assert "draws no samples" in errors[-1]


def test_prepared_latents_teach_what_volumes_teach(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretrained, "MEASURED", 2)  # fewer than there are for training
    records = f"--config.data.records={tmp_path}/latents"
    still = "--config.data.flip=False"
    prepare = command("ddpm", trained / "scans", trained, "--mode=prepare", records, still)
    status, out, errors = launch(prepare, capsys)
    assert status == 0, errors
    assert result(out)["volumes"] == 6
    found, ranges = {}, []
    measured = "--config.latents.scaling=data"
    for name, more in (("files", ()), ("records", (records,))):
        workdir = f"--workdir={tmp_path}/{name}"
        argv = command("ddpm", trained / "scans", trained, "--mode=train", workdir, still, measured, *steps(3), *more)
        status, _, errors = launch(argv, capsys)
        assert status == 0, errors
        found[name] = rows(tmp_path / name)
        ranges.append(json.loads((tmp_path / name / "data.json").read_text())["frozen"])
    assert found["files"].keys() == {1, 2, 3}
    for bound in ("low", "high"):
        np.testing.assert_allclose(ranges[0][bound], ranges[1][bound], rtol=1e-5)
    for step, loss in found["files"].items():
        np.testing.assert_allclose(found["records"][step], loss, rtol=1e-4)


def test_going_on_leaves_the_codebook_as_it_was(trained, tmp_path, capsys):
    for count in (2, 4):  # the second run finds the first's codebook
        argv = command("vqgan", trained / "scans", tmp_path, "--mode=train", *steps(count))
        status, _, errors = launch(argv, capsys)
        assert status == 0, errors
    expected, found = (fingerprints(folder / "vqgan", 4) for folder in (trained, tmp_path))
    assert any("codebook" in name for name in found)
    assert found == expected


@pytest.mark.parametrize("stage", ["vqgan", "ddpm"])
def test_two_processes_are_one(stage, trained):
    more = ("--config.mesh.data=2", f"--workdir={trained}/{stage}_of_two")
    argv = command(stage, trained / "scans", trained, "--mode=train", *steps(4), *more)
    for status, _, err in ends(start_all(argv, 2)):
        assert status == 0, err
    one, two = rows(trained / stage), rows(trained / f"{stage}_of_two")
    assert one.keys() == two.keys()
    np.testing.assert_allclose(list(two.values()), list(one.values()), rtol=2e-5)


def test_a_vqgan_is_not_averaged(trained, tmp_path, capsys):
    argv = command("vqgan", trained / "scans", tmp_path, "--mode=train", "--config.train.ema_decay=0.9")
    status, _, (line,) = launch(argv, capsys)
    assert status == 2
    assert "train.ema_decay is 0.9" in line


def test_what_is_missing_is_named(trained, tmp_path, capsys):
    scans = trained / "scans"
    cases = {
        "latents.vqgan is not set": command("ddpm", scans, tmp_path, "--mode=train", "--config.latents.vqgan="),
        "config.json": command("ddpm", scans, tmp_path, "--mode=train", f"--config.latents.vqgan={tmp_path}/nothing"),
        "give that of a VQ-GAN": command(
            "ddpm", scans, tmp_path, "--mode=train", f"--config.latents.vqgan={trained}/ddpm"
        ),
        "data.size": command(
            "ddpm", scans, trained, "--mode=train", f"--workdir={tmp_path}/other", "--config.data.size=(32,32,32)"
        ),
        "nothing.pt": command(
            "vqgan", scans, tmp_path, "--mode=train", f"--config.losses.perceptual_weights={tmp_path}/nothing.pt"
        ),
        "no labels": command(
            "ddpm", scans, trained, "--mode=train", f"--workdir={tmp_path}/other", "--config.model.classes=2"
        ),
    }
    for message, argv in cases.items():
        status, _, errors = launch(argv, capsys)
        assert status == 2, message
        assert len(errors) == 1 and message in errors[0], (message, errors)
    written = [path.name for path in (tmp_path / "other").rglob("*")]
    assert written == ["cases.csv"]  # of the run that had to look at its scans; no workdir was begun
