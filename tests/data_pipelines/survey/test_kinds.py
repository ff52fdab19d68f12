import gzip

import numpy as np
import pytest

from data_pipelines.formats.read import look
from data_pipelines.survey import kinds, peek
from data_pipelines.survey.found import Item, Kind
from data_pipelines.survey.peek import few_whole_values
from scan_trees import SHAPE, labels, save, scan

ORDER = np.arange(np.prod(SHAPE)).reshape(SHAPE)


@pytest.mark.parametrize(
    ("array", "few"),
    [
        ((ORDER % 2).astype(np.uint8) * 255, True),
        ((ORDER % 64).astype(np.float64), True),
        ((ORDER % 65).astype(np.int16), False),
        ((ORDER % 4).astype(np.float32) / 2, False),
        (np.where(ORDER % 3, np.nan, ORDER % 2).astype(np.float32), True),
        (np.zeros(SHAPE, np.uint8), None),
        (np.full(SHAPE, np.nan, np.float32), None),
        ((ORDER % 5).astype(">i2"), True),
    ],
)
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.npy"])
def test_few_whole_values(tmp_path, name, array, few):
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, array)
    else:
        save(path, array)
    assert few_whole_values(look(path)) is few


def test_an_image_is_known_by_its_first_values(tmp_path, monkeypatch):
    monkeypatch.setattr(peek, "CHUNK", 1024)
    path = scan(tmp_path / "x.nii.gz", shape=(32, 32, 32))
    whole = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(whole[:4096]))  # cut short behind them
    assert few_whole_values(look(path)) is False
    short = labels(tmp_path / "y.nii.gz")
    short.write_bytes(gzip.compress(gzip.decompress(short.read_bytes())[:-1]))
    assert few_whole_values(look(short)) is None


def judged(root, names, dtypes=None) -> dict[str, bool]:
    items = {name: Item(name, "plain folders", name, name) for name in names}
    found, doubts = kinds.by_values(items, {name: look(root / name) for name in names})
    judged.doubts = doubts
    return {name: item.kind is Kind.LABEL_MAP for name, item in found.items()}


def test_three_files_speak_for_their_group(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(kinds, "few_whole_values", lambda seen: opened.append(seen) or few_whole_values(seen))
    names = [f"p{n:02d}.nii" for n in range(20)]
    for name in names:
        labels(tmp_path / name)
    assert all(judged(tmp_path, names).values()) and len(opened) == 3


def test_a_group_whose_files_differ_is_looked_into_one_by_one(tmp_path, monkeypatch):
    names = [f"{n:02d}.nii" for n in range(10)]
    for n, name in enumerate(names):
        (labels if n % 3 == 0 else scan)(tmp_path / name)
        save(tmp_path / name, (ORDER % (4 if n % 3 == 0 else 500)).astype(np.int16))
    assert judged(tmp_path, names) == {name: n % 3 == 0 for n, name in enumerate(names)}
    assert judged.doubts == []
    monkeypatch.setattr(kinds, "MOST_PEEKS", 5)
    judged(tmp_path, names)
    assert "of 10 files such as 00.nii some have few whole values" in judged.doubts[0]


def test_files_of_one_value_do_not_decide(tmp_path):
    names = [f"p{n:02d}.nii" for n in range(6)]
    for n, name in enumerate(names):
        save(tmp_path / name, np.zeros(SHAPE, np.uint8) if n in (0, 3, 5) else (ORDER % 3).astype(np.uint8))
    assert all(judged(tmp_path, names).values())
    for name in names:
        save(tmp_path / name, np.zeros(SHAPE, np.uint8))
    assert not any(judged(tmp_path, names).values())
