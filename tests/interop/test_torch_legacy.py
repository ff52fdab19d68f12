"""Checkpoints as PyTorch wrote them before version 1.6."""

import pathlib
import pickle

import numpy as np
import pytest

from medjax.errors import UserError
from medjax.interop.torch_legacy import FORMAT, MAGIC
from medjax.interop.torch_load import load_state_dict, load_state_dicts
from test_torch_load import Attack
from torch_files import NUMBERS, dictionary, fragment, integer, integers, tensor, text

MACHINE = {"protocol_version": FORMAT, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
WHOLE = bytes(range(8)) * 4  # four 64-bit integers


def stored(key: str, numel: int, *layout: bytes, view: bytes = b"N", **more) -> bytes:
    """A tensor whose storage is named with one item more than zip files have: no view of another."""
    plain = tensor(key, numel, *layout, **more)
    return plain.replace(integer(numel) + b"tQ", integer(numel) + view + b"tQ", 1)


def stream(
    path: pathlib.Path, pickled: bytes, storages: dict[str, tuple[int, bytes]], machine=MACHINE, number=FORMAT
) -> pathlib.Path:
    """A file of this pickle, without its first two bytes and its last, and these storages: how many numbers, and their bytes."""
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(number, 2), pickle.dumps(machine, 2), b"\x80\x02" + pickled + b"."]
    parts.append(pickle.dumps(list(storages), 2))
    parts += [count.to_bytes(8, "little") + content for count, content in storages.values()]
    path.write_bytes(b"".join(parts))
    return path


STORAGES = {"7": (6, NUMBERS.tobytes()), "3": (4, WHOLE)}
TENSORS = {
    "module.weight": stored("7", 6, integers(2, 3), integers(3, 1)),
    "module.middle": stored("7", 6, integers(2), integers(2), offset=1),
    "module.steps": stored("3", 4, integers(4), integers(1), kind="LongStorage"),
}


def test_a_state_dict(tmp_path):
    for content in (dictionary(**TENSORS), dictionary(state_dict=dictionary(**TENSORS), epoch=integer(3))):
        arrays = load_state_dict(stream(tmp_path / "a.pth", content, STORAGES))
        assert list(arrays) == ["weight", "middle", "steps"]
        np.testing.assert_array_equal(arrays["weight"], NUMBERS.reshape(2, 3))
        np.testing.assert_array_equal(arrays["middle"], [1, 3])
        np.testing.assert_array_equal(arrays["steps"], np.frombuffer(WHOLE, np.int64))
        (tmp_path / "a.pth").unlink()  # which the arrays are still views of


def test_what_lies_beside_a_state_dict_is_passed_over(tmp_path):
    """Its storages too, between those that are read."""
    beside = b"](" + stored("5", 6, integers(6), integers(1)) + fragment(Attack(tmp_path / "ran")) + b"e"
    storages = {"5": (6, bytes(24)), **STORAGES}
    path = stream(tmp_path / "a.pth", dictionary(optimizer=beside, model=dictionary(**TENSORS)), storages)
    np.testing.assert_array_equal(load_state_dicts(path, ("model",))["model"]["weight"], NUMBERS.reshape(2, 3))
    with pytest.raises(UserError, match="names 'posix.system'"):
        load_state_dict(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storages": {"7": (6, NUMBERS.tobytes())}}, "lacks the numbers of 'module.steps'"),
        ({"storages": {"7": (6, NUMBERS.tobytes()), "3": (5, WHOLE)}}, "another size"),
        ({"storages": {"7": (6, NUMBERS.tobytes()), "3": (4, WHOLE[:-1])}}, "cut short"),
        ({"storages": STORAGES | {"9": (1, bytes(4))}}, "does not describe"),
        ({"storages": STORAGES | {9: (1, bytes(4))}}, "does not describe"),
        ({"number": 1002}, "not known"),
        ({"machine": MACHINE | {"little_endian": False}}, "big-endian"),
        ({"pickled": dictionary(a=stored("7", 6, integers(6), integers(1), view=text("base")))}, "PyTorch 0.3"),
        (
            {"pickled": dictionary(a=stored("7", 2**60, integers(6), integers(1))), "storages": {"7": (6, bytes(24))}},
            "another size",
        ),
        ({"pickled": b"a"}, "damaged pickle"),
    ],
)
def test_damage(changes, words, tmp_path):
    path = stream(**{"path": tmp_path / "a.pth", "pickled": dictionary(**TENSORS), "storages": STORAGES} | changes)
    with pytest.raises(UserError, match=words) as raised:
        load_state_dict(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_cut_short_anywhere(tmp_path):
    whole = stream(tmp_path / "a.pth", dictionary(**TENSORS), STORAGES).read_bytes()
    for length in range(16, len(whole)):
        (tmp_path / "a.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged|cut short|does not end"):
            load_state_dict(tmp_path / "a.pth")


def test_what_a_storage_is_called_stays_in_one_line(tmp_path):
    odd = dictionary(a=stored("7", 6, integers(6), integers(1)).replace(b"ctorch\nFloat", b"ctorch\nFlo\x1b[2J", 1))
    with pytest.raises(UserError, match=r"has a 'Flo\\x1b\[2JStorage'"):
        load_state_dict(stream(tmp_path / "a.pth", odd, {"7": STORAGES["7"]}))
