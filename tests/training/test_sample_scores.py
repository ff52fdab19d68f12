import errno
import json
import shutil

import jax
import pytest

from medjax.training import sample_scores
from small_runs import command, launch, write_scans

TRIED = ("--config.train.evaluate_every=2", "--config.train.evaluate_count=3", "--config.train.checkpoint_every=2")
SPLIT = "--config.data.split=(0.6,0.2,0.2)"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def rows(folder):
    written = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    return [row for row in written if any(name.startswith("evaluate/") for name in row)]


def test_samples_are_judged_on_the_way_and_again_the_same_after_an_interruption(tmp_path, capsys):
    argv = command(write_scans(tmp_path / "scans", count=10), tmp_path, *TRIED, SPLIT, "--config.train.steps=4")
    assert launch(argv, capsys)[0] == 0
    whole = rows(tmp_path)
    assert [row["step"] for row in whole] == [2, 4]
    assert {"evaluate/fid", "evaluate/kid", "evaluate/precision", "evaluate/recall"} <= whole[0].keys()
    assert whole[0]["evaluate/fid"] != whole[1]["evaluate/fid"] > 0
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    assert launch(argv, capsys)[0] == 0
    assert rows(tmp_path) == whole


OUT_OF_MEMORY = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1073741824 bytes.")


def raising(error):
    def raises(*arguments, **options):
        raise error

    return raises


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("feature_scores", OUT_OF_MEMORY),
        ("feature_scores", ValueError("2 of 3 rows of features are not finite")),
        ("CompiledSampler", OUT_OF_MEMORY),
    ],
)
def test_a_measurement_that_fails_is_a_row_of_nulls_and_training_goes_on(what, error, tmp_path, monkeypatch, capsys):
    import launch as launcher

    monkeypatch.setattr(sample_scores, what, raising(error))
    argv = command(write_scans(tmp_path / "scans", count=10), tmp_path, *TRIED, SPLIT, "--config.train.steps=4")
    assert launcher.main(argv) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "was not measured" in line]
    assert len(told) == 2 and "step 2 was not measured" in told[0] and str(error)[:30] in told[0]
    found = rows(tmp_path)
    assert [row["step"] for row in found] == [2, 4]
    assert all(value is None for name, value in found[0].items() if name != "step")


def test_a_full_disk_ends_training_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sample_scores, "feature_scores", raising(OSError(errno.ENOSPC, "No space left on device")))
    argv = command(write_scans(tmp_path / "scans", count=10), tmp_path, *TRIED, SPLIT, "--config.train.steps=2")
    status, out, lines = launch(argv, capsys)
    assert (status, out, len(lines)) == (2, "", 1) and "no space left" in lines[0]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--config.data.split=(1.0,0.0,0.0)",), "0 volumes are held out"),
        (("--config.train.evaluate_count=1", SPLIT), "train.evaluate_count is 1"),
        (("--config.evaluate.weights=no.pth", SPLIT), "no.pth"),
        (("--config.evaluate.batch_size=0", SPLIT), "evaluate.batch_size is 0"),
        (("--config.train.evaluate_every=-1", SPLIT), "train.evaluate_every is -1"),
    ],
)
def test_what_cannot_be_judged_is_one_line_before_the_first_step(tmp_path, capsys, more, said):
    argv = command(write_scans(tmp_path / "scans", count=10), tmp_path, "--config.train.evaluate_every=2", *more)
    status, out, lines = launch(argv, capsys)
    assert (status, out, len(lines)) == (2, "", 1) and said in lines[0]
