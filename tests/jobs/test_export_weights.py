import pytest

from imported_runs import VARIANTS, arguments, import_run
from medjax.interop.torch_load import load_state_dict
from small_runs import launch, result, snapshot


def export(variants, run, output, capsys, *more):
    return launch(arguments(variants, run, "export_weights", f"--output={output}", *more), capsys)


@pytest.mark.parametrize("variants", VARIANTS)
def test_there_and_back_is_exact(variants, tmp_path, capsys):
    run = import_run(tmp_path, variants)
    before = snapshot(run)
    status, out, lines = export(variants, run, tmp_path / "back.pt", capsys)
    assert status == 0, lines
    assert (result(out)["step"], result(out)["tensors"]) == (0, len(load_state_dict(tmp_path / "back.pt")))
    assert (tmp_path / "back.pt").read_bytes() == (tmp_path / "weights.pt").read_bytes()
    assert snapshot(run) == before


def test_the_moving_average_or_the_parameters(tmp_path, capsys):
    run = import_run(tmp_path, "tiny")
    more = ("--config.train.steps=2", "--config.train.eval_volumes=2", "--config.data.atlas_count=4")
    status, _, lines = launch(arguments("tiny", run, "train", *more, f"--config.data.cache={tmp_path}/cache"), capsys)
    assert status == 0, lines
    exported = {}
    for name, ema in (("ema", "True"), ("params", "False")):
        status, out, lines = export("tiny", run, tmp_path / f"{name}.pt", capsys, f"--config.sample.ema={ema}")
        assert status == 0, lines
        assert result(out)["step"] == 2
        exported[name] = load_state_dict(tmp_path / f"{name}.pt")["out.2.weight"]
    assert 0 < abs(exported["ema"] - exported["params"]).max() < 1e-2


def test_what_cannot_work_is_named(tmp_path, capsys):
    run = import_run(tmp_path, "tiny")
    capsys.readouterr()
    (tmp_path / "there.pt").write_text("mine")
    for argv, words in (
        (arguments("tiny", run, "export_weights"), "--output is missing"),
        (arguments("tiny", run, "export_weights", f"--output={tmp_path}/there.pt"), "there.pt exists"),
        (arguments("tiny", run, "export_weights", f"--output={tmp_path}/no/a.pt"), "there is no folder"),
        (arguments("tiny", tmp_path / "none", "export_weights", f"--output={tmp_path}/a.pt"), "config.json is missing"),
        (arguments("tiny,wavunet", run, "export_weights", f"--output={tmp_path}/a.pt"), "another model"),
    ):
        status, out, lines = launch(argv, capsys)
        assert (status, out, len(lines)) == (2, "", 1), lines
        assert words in lines[0]
    assert (tmp_path / "there.pt").read_text() == "mine"
    assert not (tmp_path / "a.pt").exists()
