import json
import shutil

import pytest

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
