"""A latent diffusion needs its VQ-GAN's run at its first start only: what encodes and decodes lies in its own folder."""

import json
import shutil

import jax
import numpy as np
import pytest

from medjax.builders.vqgan_copy import read_copy, write_copy
from medjax.errors import UserError
from medjax.interop.torch_load import load_state_dicts
from small_runs import launch, result, snapshot
from test_latents import command, rows, steps, trained  # noqa: F401  a fixture


@pytest.fixture
def both(trained, tmp_path):  # noqa: F811
    """A folder with the scans and runs of `trained`, to be changed."""
    for stage in ("vqgan", "ddpm"):
        shutil.copytree(trained / stage, tmp_path / stage)
    (tmp_path / "scans").symlink_to(trained / "scans")
    return tmp_path


def run(folder, capsys, mode: str, *more: str) -> dict:
    """The result of a job of the diffusion."""
    status, out, errors = launch(command("ddpm", folder / "scans", folder, f"--mode={mode}", *more), capsys)
    assert status == 0, errors
    return result(out)


def refusal(folder, capsys, mode: str, *more: str) -> str:
    status, _, (line,) = launch(command("ddpm", folder / "scans", folder, f"--mode={mode}", *more), capsys)
    assert status == 2
    return line


def sampled(folder) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "ddpm/samples").glob("*.nii.gz"))]


def go(folder) -> None:
    shutil.rmtree(folder / "vqgan")


def prune(folder) -> None:
    """What training the VQ-GAN on does in the end."""
    (folder / "vqgan/checkpoints/4").rename(folder / "vqgan/checkpoints/6")


@pytest.mark.parametrize("lose", [go, prune])
@pytest.mark.parametrize("named", [True, False])
def test_without_the_vqgans_checkpoint_all_goes_on(lose, named, both, capsys):
    more = () if named else ("--config.latents.vqgan=",)
    run(both, capsys, "sample")
    expected = sampled(both)
    run(both, capsys, "export_weights", f"--output={both}/expected.pt")
    lose(both)
    shutil.rmtree(both / "ddpm/samples")
    run(both, capsys, "sample", *more)
    assert sampled(both) == expected
    assert run(both, capsys, "evaluate", "--config.evaluate.pairs=2", *more)["n_generated"] == 2
    run(both, capsys, "export_weights", f"--output={both}/found.pt", *more)
    files = [load_state_dicts(both / f"{name}.pt", ("model", "ema")) for name in ("expected", "found")]
    jax.tree.map(np.testing.assert_array_equal, *files)
    assert run(both, capsys, "train", *steps(6), *more)["resumed_from"] == 4
    assert rows(both / "ddpm").keys() == {1, 2, 3, 4, 5, 6}


def test_training_the_vqgan_on_does_not_matter(both, capsys):
    assert launch(command("vqgan", both / "scans", both, "--mode=train", *steps(6)), capsys)[0] == 0
    assert run(both, capsys, "train", *steps(6))["resumed_from"] == 4


def test_a_run_without_a_copy_goes_on_with_the_step_it_has_learned_on_and_gets_its_copy(both, capsys):
    shutil.rmtree(both / "ddpm/vqgan")
    assert launch(command("vqgan", both / "scans", both, "--mode=train", *steps(6)), capsys)[0] == 0
    assert "leave it out" in refusal(both, capsys, "train", *steps(6), "--config.latents.step=6")
    assert run(both, capsys, "train", *steps(6))["resumed_from"] == 4
    go(both)
    assert run(both, capsys, "train", *steps(8))["resumed_from"] == 6


def test_a_run_without_a_copy_says_which_step_is_missing(both, capsys):
    shutil.rmtree(both / "ddpm/vqgan")
    prune(both)
    assert "holds no step 4: it has " in refusal(both, capsys, "sample")


def other_codebook(folder):
    path = folder / "vqgan/checkpoints/4/fingerprints/metadata"
    prints = json.loads(path.read_text())
    prints["model"]["['variables']['codebook']['embeddings']"] += 1
    path.write_text(json.dumps(prints))


def other_seed(folder):
    path = folder / "vqgan/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": 5}))


@pytest.mark.parametrize("other", [other_codebook, other_seed])
@pytest.mark.parametrize("mode", ["train", "sample", "export_weights"])
def test_another_vqgan_is_refused(mode, other, both, capsys):
    other(both)
    before = snapshot(both / "ddpm")
    more = (f"--output={both}/out.pt",) if mode == "export_weights" else ()
    assert "is another VQ-GAN than that in" in refusal(both, capsys, mode, *more)
    assert snapshot(both / "ddpm") == before


def test_another_step_of_the_vqgan_is_refused(both, capsys):
    assert "has learned on step 4" in refusal(both, capsys, "train", "--config.latents.step=2")


def test_a_copy_serves_another_run(both, capsys):
    go(both)
    copy = f"--config.latents.vqgan={both}/ddpm/vqgan"
    run(both, capsys, "train", copy, f"--workdir={both}/third", *steps(1))
    shutil.rmtree(both / "ddpm")
    assert run(both, capsys, "sample", "--config.latents.vqgan=", f"--workdir={both}/third")["drawn"] == 2


@pytest.mark.parametrize("how", ["torn", "exchanged"])
def test_a_damaged_copy_is_named(how, both, capsys):
    path = both / "ddpm/vqgan/weights.npz"
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-2000])
    else:
        with np.load(path) as file:
            arrays = dict(file)
        arrays["variables/codebook/embeddings"] += 1
        np.savez(path, **arrays)
    assert "ddpm/vqgan" in (line := refusal(both, capsys, "sample")) and "damaged" in line


def test_what_lies_under_its_name_is_left_alone(tmp_path, capsys):
    (tmp_path / "vqgan").mkdir()
    write_copy(tmp_path / "vqgan", {}, {}, {"a": np.zeros(2)})
    assert list((tmp_path / "vqgan").iterdir()) == []
    assert "none is written" in capsys.readouterr().err


def test_a_copy_of_another_shape_is_refused(tmp_path):
    write_copy(tmp_path / "vqgan", {}, {}, {"a": {"b": np.zeros(2, np.float32)}})
    shapes = {"a": {"b": jax.ShapeDtypeStruct((2,), np.float32)}}
    np.testing.assert_array_equal(read_copy(tmp_path / "vqgan", shapes)["a"]["b"], [0, 0])
    for other in ({"a": {"c": shapes["a"]["b"]}}, {"a": {"b": jax.ShapeDtypeStruct((3,), np.float32)}}):
        with pytest.raises(UserError, match="not of the VQ-GAN"):
            read_copy(tmp_path / "vqgan", other)
    assert [path.name for path in tmp_path.iterdir()] == ["vqgan"]
