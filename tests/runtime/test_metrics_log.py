import json
import math

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from medjax.runtime.metrics_log import MetricsLog, last_values, read_rows


def rows(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_rows_keep_full_precision_and_null_what_is_not_finite(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 1 / 3, "empty": math.nan})
    log.close()
    assert rows(tmp_path) == [{"step": 1, "loss": 1 / 3, "empty": None}]
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_resuming_drops_later_rows_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "val_loss": 1.0}\n{"step": 2, "loss": 0.5}\n{"step": 3, "loss": 0.4}\n{"step": 4, "lo')
    log = MetricsLog(tmp_path, 2)
    log.write(3, {"loss": 0.3})
    log.close()
    assert rows(tmp_path) == [{"step": 0, "val_loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 0.3}]


def test_a_run_that_begins_again_has_each_row_once(tmp_path):
    for _ in range(3):  # killed before its first checkpoint, twice
        log = MetricsLog(tmp_path, 0)
        log.write(0, {"val_loss": 1.0})
        log.write(1, {"loss": 0.5})
        log.close()
    assert rows(tmp_path) == [{"step": 0, "val_loss": 1.0}, {"step": 1, "loss": 0.5}]


@pytest.mark.parametrize(("step", "first"), [(0, 0), (7, 8)])
def test_tensorboard_is_told_from_where_on_earlier_files_do_not_count(step, first, tmp_path):
    MetricsLog(tmp_path, step).close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    events = [Event.FromString(record) for record in records(path.read_bytes())]
    assert [event.step for event in events if event.session_log.status == SessionLog.START] == [first]


def records(content):
    """The messages of a file of TensorFlow records."""
    while content:
        length = int.from_bytes(content[:8], "little")
        yield content[12 : 12 + length]
        content = content[16 + length :]


def test_a_torn_line_goes_even_if_no_row_is_too_late(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2}')
    MetricsLog(tmp_path, 2).close()
    assert rows(tmp_path) == [{"step": 1, "loss": 0.5}]


def test_other_processes_write_nothing(tmp_path):
    log = MetricsLog(None, 0)
    log.write(1, {"loss": 1.0})
    log.write_picture(1, "slices", np.zeros((4, 4), np.uint8))
    log.close()
    assert not list(tmp_path.iterdir())


def test_last_values(tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 1.0, "val_loss": 3.0})
    log.write(2, {"loss": 2.0})
    log.close()
    assert last_values(tmp_path / "metrics.jsonl") == {"step": 2, "loss": 2.0, "val_loss": 3.0}
    assert last_values(tmp_path / "none.jsonl") == {}


def test_damaged_rows_are_none(tmp_path):
    path = tmp_path / "metrics.jsonl"
    bad = (
        b"[1]",
        b"7",
        b'{"loss": 1}',
        b'{"step": "x"}',
        b'{"step": true}',
        b'{"step": {}}',
        b"\xf0\x28",
        b"[" * 10**5,
    )
    good = b'{"step": 1, "loss": 0.5}\n'
    path.write_bytes(good + b"\n".join(bad) + b'\n{"step": 2, "loss": 0.25}\n')
    assert read_rows(path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    assert last_values(path) == {"step": 2, "loss": 0.25}
    MetricsLog(tmp_path, 1).close()
    assert path.read_bytes() == good
