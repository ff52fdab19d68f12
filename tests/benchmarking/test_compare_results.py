import json

import pytest

from medjax.benchmarking.compare_results import compare_with, in_columns, read_result
from medjax.errors import UserError


def told(seconds, spread=0.1, **more):
    parts = {"train": {"seconds": seconds, "spread": spread}, "sampler": None}
    speed = {"train_step_seconds": seconds, "volumes_per_second_per_device": 1 / seconds, "mfu": None}
    return speed | {"parts": parts, "device_kind": "cpu"} | more


def test_ratios_and_what_they_mean():
    text, ratios = compare_with(told(1.0), told(2.0))
    assert ratios == {"train_step_seconds": 2.0, "volumes_per_second_per_device": 0.5}
    lines = text.splitlines()
    assert lines[1].split() == ["train_step_seconds", "1", "2", "2.000", "worse"]
    assert lines[2].endswith("worse") and len(lines) == 3
    assert "better" in compare_with(told(2.0), told(1.0))[0]


def test_a_difference_within_the_larger_spread_is_none():
    text, _ = compare_with(told(1.0, spread=0.01), told(1.2, spread=0.3))
    assert text.count("the same within the spread of 30.0%") == 2


def test_other_circumstances_are_named():
    text, _ = compare_with(told(1.0), told(1.0, device_kind="TPU v5e"))
    assert text.splitlines()[-1] == "not the same: device_kind was cpu, is TPU v5e"


def test_the_last_result_of_a_file_is_read(tmp_path):
    path = tmp_path / "benchmarks.jsonl"
    path.write_text("progress\n" + json.dumps(told(1.0)) + "\n" + json.dumps(told(3.0)) + '\n{"torn')
    assert read_result(path)["train_step_seconds"] == 3.0


@pytest.mark.parametrize("content", [None, b"", b'{"loss": 1}\n[]\n', b"\xff\xfe"])
def test_a_file_without_a_result_is_named(tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        read_result(path)


def test_columns():
    assert in_columns([("a", "bb", "c"), ("aaa", "b", "")]) == "a    bb  c\naaa   b"
