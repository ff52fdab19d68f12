import json
import sys

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

from imported_runs import VARIANTS, arguments, import_run, random_weights, write_weights
from medjax.errors import UserError
from medjax.interop.safetensors_load import save_tensors
from medjax.interop.torch_load import load_state_dict
from medjax.interop.torch_save import save_checkpoint, save_state_dict
from medjax.jobs.import_weights import stated_affine
from small_runs import launch, result, snapshot

# 16^3 voxels of what 256^3 voxels of 1 mm cover, BraTS's 240 x 240 x 155 among them.
AFFINE = [[-16, 0, 0, 0.5], [0, -16, 0, 239.5], [0, 0, 16, -42.5], [0, 0, 0, 1]]
HERE = "--config.data.affine=((-16,0,0,0.5),(0,-16,0,239.5),(0,0,16,-42.5),(0,0,0,1))"


def refused(argv, capsys, *words):
    status, out, lines = launch(argv, capsys)
    assert (status, out, len(lines)) == (2, "", 1), lines
    assert all(word in lines[0] for word in words), lines[0]


@pytest.mark.parametrize("variants", VARIANTS)
def test_samples_lie_where_the_config_says(variants, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # neither of the two jobs may ask for it
    path = write_weights(tmp_path / "weights.pt", variants)
    status, out, lines = launch(
        arguments(variants, tmp_path / "run", "import_weights", f"--checkpoint={path}", HERE), capsys
    )
    assert status == 0, lines
    weights = random_weights(variants)
    told = result(out)
    assert (told["step"], told["tensors"]) == (0, len(weights))
    assert told["parameters"] == sum(array.size for array in {id(a): a for a in weights.values()}.values())
    status, _, lines = launch(arguments(variants, tmp_path / "run", "sample"), capsys)
    assert status == 0, lines
    sample = nibabel.load(tmp_path / "run/samples/sample_00000.nii.gz")
    np.testing.assert_array_equal(sample.affine, AFFINE)
    assert 0 <= sample.get_fdata().min() < sample.get_fdata().max() <= 1


HALVES = "--config.data.split=(0.5,0.5,0.0)"  # of four subjects chance leaves none for validation else


def test_training_goes_on_from_it_with_any_data(tmp_path, capsys):
    run = import_run(tmp_path, "tiny")
    more = ("--config.train.steps=1", "--config.train.eval_volumes=2", "--config.data.atlas_count=4", HALVES)
    argv = arguments("tiny", run, "train", *more, f"--config.data.cache={tmp_path}/cache")
    status, out, lines = launch(argv, capsys)
    assert status == 0, lines
    assert (result(out)["resumed_from"], result(out)["step"]) == (0, 1)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 1]
    # From now on the run belongs to this data.
    refused([*argv, "--config.data.atlas_count=5", "--config.train.steps=2"], capsys, "other data")


def test_what_does_not_fit_is_named_and_nothing_is_made(tmp_path, capsys):
    weights, path = random_weights("tiny"), tmp_path / "weights.pt"
    weights["out.3.weight"] = weights.pop("out.2.weight")
    weights["out.0.bias"] = np.zeros((3, 3), np.float32)
    weights["evil\n\x1b[2Jname"] = np.zeros(1, np.float32)
    save_state_dict(path, weights)
    argv = arguments("tiny", tmp_path / "run", "import_weights", f"--checkpoint={path}")
    words = ("lacks: out.2.weight", "too many: out.3.weight, evil??[2Jname", "other shapes: out.0.bias (3, 3) for (8,)")
    refused(argv, capsys, str(path), *words)
    write_weights(path, "tiny,wavunet")
    refused(argv, capsys, "lacks: ", "more; has too many: ")
    path.write_bytes(path.read_bytes()[:1000])
    refused(argv, capsys, str(path), "damaged or cut short")
    refused(argv[:-1], capsys, "--checkpoint is missing")
    refused([*argv, "--config.data.affine=((1,0),(0,1))"], capsys, "data.affine is")
    assert not (tmp_path / "run").exists()


def test_the_part_that_is_asked_for(tmp_path, capsys):
    """As a script leaves it that compiles the network, trains it on several GPUs and averages it."""
    model = random_weights("tiny")
    ema = {name: array + 1 for name, array in model.items()}
    path, first = tmp_path / "weights.pt", next(iter(model))
    wrapped = {
        "model": {f"_orig_mod.module.{n}": a for n, a in model.items()},
        "ema": {f"module.{n}": a for n, a in ema.items()},
    }
    save_checkpoint(path, wrapped | {"step": 7})
    argv = arguments("tiny", tmp_path / "run", "import_weights", f"--checkpoint={path}")
    refused(argv, capsys, str(path), "holds several state dicts ('model', 'ema'): say which with --part=NAME")
    refused([*argv, "--part=other"], capsys, "has no part 'other'", "--part=NAME")
    assert not (tmp_path / "run").exists()
    for part, weights in (("model", model), ("ema", ema)):
        argv = arguments("tiny", tmp_path / part, "import_weights", f"--checkpoint={path}", f"--part={part}")
        assert launch(argv, capsys)[0] == 0
        argv = arguments("tiny", tmp_path / part, "export_weights", f"--output={tmp_path}/{part}.pt")
        assert launch(argv, capsys)[0] == 0
        np.testing.assert_array_equal(load_state_dict(tmp_path / f"{part}.pt")[first], weights[first])


@pytest.mark.parametrize("variants", VARIANTS)
def test_safetensors_in_and_out(variants, tmp_path, capsys):
    """A shared parameter may have one of its names alone, as safetensors.torch.save_model leaves it."""
    pytest.importorskip("safetensors")
    weights = random_weights(variants)
    once = {n: a for n, a in reversed(weights.items()) if sum(a is b for b in weights.values()) == 1}
    once |= {n: a for n, a in {id(a): (n, a) for n, a in weights.items()}.values()}
    assert (len(once) < len(weights)) == ("wavunet" in variants)
    save_tensors(tmp_path / "in.safetensors", once)
    argv = arguments(variants, tmp_path / "run", "import_weights", f"--checkpoint={tmp_path}/in.safetensors")
    assert launch(argv, capsys)[0] == 0
    for name in ("out.safetensors", "out.pt"):
        argv = arguments(variants, tmp_path / "run", "export_weights", f"--output={tmp_path}/{name}")
        status, out, lines = launch(argv, capsys)
        assert status == 0 and result(out)["tensors"] == len(weights), lines
        back = load_state_dict(tmp_path / name)
        assert back.keys() == weights.keys()
        assert all(np.array_equal(back[n], weights[n]) for n in weights)
    path = tmp_path / "in.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    argv = arguments(variants, tmp_path / "other", "import_weights", f"--checkpoint={path}")
    refused(argv, capsys, f"{path} is a damaged safetensors file", "copy it again")


def test_half_precision(tmp_path, capsys):
    """bfloat16 becomes float32 as it is."""
    pytest.importorskip("safetensors")
    weights = {name: array.astype(jnp.bfloat16) for name, array in random_weights("tiny").items()}
    save_tensors(tmp_path / "in.safetensors", weights)
    argv = arguments("tiny", tmp_path / "run", "import_weights", f"--checkpoint={tmp_path}/in.safetensors")
    assert launch(argv, capsys)[0] == 0
    argv = arguments("tiny", tmp_path / "run", "export_weights", f"--output={tmp_path}/out.pt")
    assert launch(argv, capsys)[0] == 0
    back = load_state_dict(tmp_path / "out.pt")
    assert all(np.array_equal(back[n], weights[n].astype(np.float32)) for n in weights)


def test_a_run_is_never_written_over(tmp_path, capsys):
    run = import_run(tmp_path, "tiny")
    capsys.readouterr()
    before = snapshot(run)
    refused(
        arguments("tiny", run, "import_weights", f"--checkpoint={tmp_path}/weights.pt"), capsys, "holds a run already"
    )
    assert snapshot(run) == before


def test_interrupted_before_its_checkpoint_it_may_be_told_again(tmp_path):
    run = import_run(tmp_path, "tiny")
    for path in sorted((run / "checkpoints").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    import_run(tmp_path, "tiny")
    assert (run / "checkpoints/0").is_dir()


def test_the_flag_belongs_to_this_mode(tmp_path, capsys):
    refused(arguments("tiny", tmp_path / "run", "sample", "--checkpoint=a.pt"), capsys, "--mode=import_weights")


@pytest.mark.parametrize(
    "rows", [((1, 0), (0, 1)), "none", np.zeros((4, 4)), np.full((4, 4), np.nan), 2 * np.eye(4), np.diag([1, 1, 0, 1])]
)
def test_what_is_no_affine(rows):
    with pytest.raises(UserError, match="data.affine is"):
        stated_affine(rows)


def test_an_affine_must_be_stated():
    with pytest.raises(UserError, match="data.affine is not set"):
        stated_affine(None)
