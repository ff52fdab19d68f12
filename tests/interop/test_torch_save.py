import zipfile

import numpy as np
import pytest

from medjax.interop.torch_load import load_state_dict, load_state_dicts
from medjax.interop.torch_save import save_checkpoint, save_state_dict

RNG = np.random.default_rng(0)
SHARED = RNG.standard_normal((3, 2)).astype(np.float32)
STATE_DICT = {
    "input_blocks.0.0.weight": RNG.standard_normal((4, 8, 3, 3, 3)).astype(np.float32),
    "scalar": np.array(np.nan, np.float32),
    "first": SHARED,
    "second": SHARED,
    "empty": np.zeros((0, 3), np.float32),
    "ones": np.ones((300, 1, 1, 1, 1), np.float32),
}


def test_what_is_written_is_read(tmp_path):
    save_state_dict(tmp_path / "a.pt", STATE_DICT)
    arrays = load_state_dict(tmp_path / "a.pt")
    assert list(arrays) == list(STATE_DICT)
    for name, array in STATE_DICT.items():
        assert arrays[name].shape == array.shape
        assert arrays[name].tobytes() == array.tobytes()


def test_dictionaries_of_state_dicts_and_numbers(tmp_path):
    counters = {"batches": np.array(7, np.int64), "weight": SHARED}
    save_checkpoint(tmp_path / "a.pt", {"step": 3, "model": STATE_DICT, "ema": counters, "scaler": {}})
    found = load_state_dicts(tmp_path / "a.pt", ("model", "ema"))
    for name, expected in (("model", STATE_DICT), ("ema", counters)):
        assert list(found[name]) == list(expected)
        for key, array in expected.items():
            assert (found[name][key].dtype, found[name][key].tobytes()) == (array.dtype, array.tobytes())
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert sum("/data/" in name for name in archive.namelist()) == 6  # what is shared is written once


def test_records_lie_as_pytorch_lays_them(tmp_path):
    path = tmp_path / "a.pt"
    save_state_dict(path, STATE_DICT)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        # A shared tensor has one storage.
        assert names == [
            "archive/data.pkl",
            "archive/byteorder",
            *(f"archive/data/{i}" for i in range(5)),
            "archive/version",
        ]
        assert archive.read("archive/version") == b"3\n"
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            data = archive.read(entry)
            at = entry.header_offset + 30 + len(entry.filename) + len(entry.extra)
            assert (at % 64, content[at : at + len(data)]) == (0, data)


def test_equal_arrays_give_equal_bytes(tmp_path):
    for name in ("a.pt", "b.pt"):
        save_state_dict(tmp_path / name, {key: array.copy() for key, array in STATE_DICT.items()})
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()


def test_other_arrays_are_refused(tmp_path):
    for array in (np.zeros(3), np.zeros((4, 6), np.float32).T):
        with pytest.raises(ValueError, match="weight is"):
            save_state_dict(tmp_path / "a.pt", {"weight": array})
    assert not (tmp_path / "a.pt").exists()


def test_the_pickle_is_the_one_that_pytorch_reads(tmp_path):
    """Its instructions, as a file that torch.load(weights_only=True) of version 2.15 has opened had them."""
    save_state_dict(tmp_path / "a.pt", {"w": SHARED})
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        pickled = archive.read("archive/data.pkl")
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuJ\x06\x00\x00\x00tQ"
    )
    sizes = b"J\x00\x00\x00\x00(J\x03\x00\x00\x00J\x02\x00\x00\x00t(J\x02\x00\x00\x00J\x01\x00\x00\x00t\x89"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + sizes + b"ccollections\nOrderedDict\n)RtR"
    assert pickled == b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00w" + tensor + b"u."
