import json
import sys

import nibabel
import numpy as np
import pytest

from imported_runs import VARIANTS, arguments, import_run, random_weights, write_weights
from medjax.errors import UserError
from medjax.interop.torch_save import save_state_dict
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
