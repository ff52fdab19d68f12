"""Records: prepared once, whatever happens meanwhile, then read in place of the scans."""

import pathlib
import signal

import pytest

from small_runs import command, ends, launch, result, snapshot, start, start_all, start_signalled, write_scans

SCANS = 8


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    return write_scans(tmp_path_factory.mktemp("scans"), SCANS)


@pytest.fixture(scope="module")
def prepared(scans, tmp_path_factory):
    """Arguments that prepare, and what they made."""
    import launch

    folder = tmp_path_factory.mktemp("prepared")
    argv = preparing(scans, folder)
    assert launch.main(argv) == 0
    return argv, contents(folder)


def preparing(scans, folder, *more):
    return command(scans, folder, f"--config.data.records={folder}/records", "--mode=prepare", *more)


def contents(folder):
    return {pathlib.Path(path).name: content for path, content in snapshot(folder / "records").items()}


def test_prepared_again_nothing_is_decoded(prepared, capsys):
    argv, made = prepared
    status, out, lines = launch(argv, capsys)
    assert status == 0, lines
    found = result(out)
    assert (found["volumes"], found["skipped"]) == (SCANS, 0)
    assert found["volumes_per_second"] is None
    assert found["streamed_volumes_per_second"] > 0 and found["seconds"] > 0
    assert {pathlib.Path(path).name for path in found["files"]} == {name for name in made if ".tfrecord-" in name}
    assert found["bytes"] == sum(len(content) for name, content in made.items() if ".tfrecord-" in name)
    assert {"records.json", "dataset_info.json", "features.json"} <= made.keys()


@pytest.mark.slow
def test_killed_and_started_again_the_bytes_are_the_same(prepared, scans, tmp_path):
    _, made = prepared
    argv = preparing(scans, tmp_path)
    # After the settings and the note of one scan.
    ((status, _, _),) = ends([start_signalled(argv, signal.SIGKILL, "data_pipelines.records:write_json", 2)])
    assert status == -signal.SIGKILL and not (tmp_path / "records/records.json").exists()
    assert any((tmp_path / "records/unfinished").glob("scan-*.json"))
    ((status, _, err),) = ends([start(argv)])
    assert status == 0, err
    assert contents(tmp_path) == made


@pytest.mark.slow
def test_two_processes_make_what_one_makes(prepared, scans, tmp_path):
    _, made = prepared
    found = ends(start_all(preparing(scans, tmp_path), 2))
    assert [status for status, _, _ in found] == [0, 0], found
    results = [result(out) for _, out, _ in found]
    assert contents(tmp_path) == made
    assert [found["volumes"] for found in results] == [SCANS, None]
    assert results[0].keys() == results[1].keys()


def test_a_run_may_change_from_scans_to_records(prepared, scans, tmp_path, capsys):
    records = next(argument for argument in prepared[0] if "data.records" in argument)
    of_scans = command(scans, tmp_path, "--config.train.checkpoint_every=2")
    of_records = [argument for argument in of_scans if "data.root" not in argument] + [records]
    for argv, steps in ((of_scans, 2), (of_records, 4)):
        status, out, lines = launch([*argv, f"--config.train.steps={steps}"], capsys)
        assert status == 0, lines
        assert (result(out)["step"], result(out)["volumes"]) == (steps, 5)  # of eight subjects
    status, out, lines = launch([*of_records, "--mode=sample"], capsys)
    assert status == 0, lines
    assert result(out)["count"] == 2


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("--config.data.records=", "data.records is not set"),
        ("--config.data.name=synthetic", "data.name is synthetic"),
        ("--config.data.size=(8,8,8)", "data.size is [8, 8, 8], but "),
        ("--config.data.split=(0.5,0.5,0.0)", "data.split is [0.5, 0.5, 0.0], but "),
    ],
)
def test_what_cannot_be_prepared_is_named(prepared, argument, line, capsys):
    argv, _ = prepared
    key = argument.partition("=")[0]
    status, out, lines = launch([*(other for other in argv if not other.startswith(key)), argument], capsys)
    assert (status, out, len(lines)) == (2, "", 1)
    assert line in lines[0]
