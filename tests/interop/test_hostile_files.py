"""Checkpoints made to cost more than they hold; all are refused within a few seconds of processor time and little memory."""

import os
import pathlib
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from medjax.errors import UserError
from medjax.interop import tensor_pickle
from medjax.interop.torch_load import load_state_dict, load_state_dicts
from torch_files import GOOD, NUMBERS, dictionary, integer, integers, tensor, text, write

ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
MANY = 60_000
SAME_HASH = 2**61 - 1  # Python's hash of each multiple of it is 0


def doubled(times: int) -> bytes:
    """A tuple of two of a tuple of two of ...: 2^times empty tuples, were they counted one by one."""
    return b")" + b"q\x00h\x00\x86" * times


def kept(what: bytes, number: int) -> bytes:
    """Puts what these instructions make into the memo, and takes it off the stack into a list that is there for that."""
    return what + b"q" + bytes([number]) + b"a"


def again(number: int) -> bytes:
    return b"h" + bytes([number])


def pairs(count: int, value: bytes = b"N") -> bytes:
    return b"](" + b"".join(text(str(n)) + value + b"\x86" for n in range(count)) + b"e"


STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(6) + b"tQ"
BOMBS = {
    "a doubled tuple for a module": b"}" + text("a") + doubled(48) + text("b") + b"\x93s",
    "a doubled tuple for a name": b"}" + text("a") + text("os") + doubled(48) + b"\x93s",
    "a doubled tuple for a key": b"}" + doubled(48) + b"Ns",
    "a doubled tuple for a function": b"}" + text("a") + doubled(48) + b")Rs",
    "a doubled tuple for a storage": b"}" + text("a") + doubled(48) + b"Qs",
    "a doubled tuple among others": dictionary(a=GOOD, b=doubled(48)),
    "a list copied at each call": b"]"
    + kept(ORDERED, 0)
    + kept(b"(" + pairs(MANY) + b"t", 1)
    + (again(0) + again(1) + b"R") * MANY,
    "a long shape named by each tensor": b"]"
    + kept(REBUILD, 0)
    + kept(b"(" + STORAGE + b"K\x00" + (integers(*[1] * MANY)) * 2 + b"t", 1)
    + (again(0) + again(1) + b"R") * MANY,
    "a dictionary by many names": b"}("
    + text("first")
    + dictionary(**{f"{n}": (GOOD + b"q\x01" if n == 0 else again(1)) for n in range(MANY)}, last=b"N")
    + b"q\x00"
    + b"".join(text(str(n)) + again(0) for n in range(MANY))
    + b"u",
    "keys of one hash": b"}(" + b"".join(integer(n * SAME_HASH) + b"N" for n in range(MANY)) + b"u",
    "lists in lists": b"]" * MANY + b"a" * (MANY - 1),
    "a number of many digits": b"}" + text("a") + b"L" + b"9" * MANY + b"L\ns",
    "a long text that is no module": b"}" + text("a") + b"c" + b"x" * MANY + b"\n" + b"y" * MANY + b"\ns",
    "long names of a tensor": dictionary(**{"\n" * MANY: GOOD, "a": b"N"}),
    "long names of state dicts": dictionary(**{"\n" * MANY: dictionary(a=GOOD), "\r" * MANY: dictionary(a=GOOD)}),
    "a storage of a long kind": dictionary(a=tensor("0", 6, integers(6), integers(1), kind="K" * MANY + "Storage")),
    "a storage of a long key": dictionary(a=tensor("\n" * MANY, 6, integers(6), integers(1))),
    "a shape of long numbers": dictionary(a=tensor("0", 6, integers(2**2000), integers(1))),
    "a storage of long numbers": dictionary(a=tensor("0", 2**2000, integers(6), integers(1))),
    "an empty shape of long steps": dictionary(a=tensor("0", 6, integers(0), integers(2**70))),
    "a long step to nowhere": dictionary(a=tensor("0", 6, integers(1), integers(2**70))),
    "an empty shape of huge edges": dictionary(a=tensor("0", 6, integers(0, *[2**62] * 4), integers(*[1] * 5))),
}
PROGRAM = """
import pathlib, resource, sys
from medjax.errors import UserError
from medjax.interop.torch_load import load_state_dict, load_state_dicts
spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 20,) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    print(path, flush=True)
    for read in (load_state_dict, lambda path: load_state_dicts(path, ("model", ""))):
        try:
            read(pathlib.Path(path))
        except UserError as error:
            assert len(str(error)) < 500 and str(error).isprintable(), str(error)[:2000]
        else:
            sys.exit("was read")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_what_costs_more_than_it_holds_is_refused_in_one_short_line(tmp_path):
    """In a process that is ended after twenty seconds of processor time for all."""
    paths = [write(tmp_path / kind, pickled, {"0": NUMBERS.tobytes()}) for kind, pickled in BOMBS.items()]
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, env=environment)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0, (last, done.stderr[-2000:])
    assert int(last) < 100_000  # kilobytes


def test_no_more_instructions_are_read_than_many_thousand_tensors_take(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_pickle, "MOST_STEPS", 100)
    few = write(tmp_path / "a.pt", dictionary(a=GOOD), {"0": NUMBERS.tobytes()})
    assert len(load_state_dict(few)) == 1
    refused(write(tmp_path / "b.pt", dictionary(a=GOOD, b=b"](" + b"N" * 100 + b"e")), "over 100 instructions")


def refused(path: pathlib.Path, words: str) -> None:
    for read in (load_state_dict, lambda path: load_state_dicts(path, ("",))):
        with pytest.raises(UserError, match=words) as raised:
            read(path)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_step_along_an_axis_of_one_may_be_any(tmp_path):
    one = dictionary(
        a=tensor("0", 6, integers(1, 6), integers(2**62, 1)), b=tensor("0", 6, integers(0), integers(2**62))
    )
    arrays = load_state_dict(write(tmp_path / "a.pt", one, {"0": NUMBERS.tobytes()}))
    np.testing.assert_array_equal(arrays["a"], NUMBERS[None])
    assert arrays["b"].shape == (0,)


def test_numbers_that_all_tensors_share_are_not_multiplied(tmp_path):
    content = np.zeros(10_000, np.float32).tobytes()
    whole = tensor("0", 10_000, integers(10_000), integers(1))
    shared = dictionary(first=whole + b"q\x00", **{f"{n}": again(0) for n in range(1000)})
    refused(write(tmp_path / "a.pt", shared, {"0": content}), "measure over 16 times the file")
    twice = dictionary(first=whole + b"q\x00", second=again(0))
    assert len(load_state_dict(write(tmp_path / "b.pt", twice, {"0": content}))) == 2


def zip_of(path: pathlib.Path, *, change=lambda entries: None, **records: bytes) -> pathlib.Path:
    """A zip file whose list of entries is changed after they were written."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name.replace('_', '/')}", content)
        change(archive.filelist)
    return path


PICKLED = b"\x80\x02" + dictionary(a=GOOD) + b"."


def test_entries_that_lie_in_each_other(tmp_path):
    def overlap(entries):
        for entry in entries[2:]:
            entry.header_offset, entry.file_size, entry.compress_size = entries[1].header_offset, 4000, 4000

    records = {"data.pkl": PICKLED, "data_0": bytes(4000)} | {f"data_{n}": b"" for n in range(1, 5)}
    refused(zip_of(tmp_path / "a.pt", change=overlap, **records), "claim more than it holds")


def test_an_entry_that_claims_more_than_there_is(tmp_path):
    def enlarge(entries):
        entries[1].file_size = entries[1].compress_size = 2**40

    records = {"data.pkl": PICKLED, "data_0": NUMBERS.tobytes()}
    refused(zip_of(tmp_path / "a.pt", change=enlarge, **records), "claim more than it holds")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_entries_of_one_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        for content in (PICKLED, PICKLED):
            archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", NUMBERS.tobytes())
    refused(tmp_path / "a.pt", "two entries of one name")


def test_an_entry_before_the_file(tmp_path):
    """The list of entries says that it lies later than it does, so places count from before the file's start."""
    name, size = "archive/data/0", 40_000
    numbers = 10_000
    pickled = b"\x80\x02" + dictionary(a=tensor("0", numbers, integers(numbers), integers(1))) + b"."

    def place(entries):
        entries[1].file_size = entries[1].compress_size = size
        entries[1].CRC = 0

    path = zip_of(tmp_path / "a.pt", change=place, **{"data.pkl": pickled, "data_0": bytes(size)})
    content = bytearray(path.read_bytes())
    # A local header near the end of the file, in the comment, at a negative place, and 12 bytes that would be the numbers.
    header = struct.pack("<4s22xHH12x", b"PK\x03\x04", 0, 0)
    content[-2:] = len(header).to_bytes(2, "little")
    content += header
    end = content.rindex(b"PK\x05\x06")
    listed = content.rindex(b"PK\x01\x02")
    shift = len(content)
    offset = int.from_bytes(content[end + 16 : end + 20], "little")
    content[end + 16 : end + 20] = (offset + shift).to_bytes(4, "little")
    first = content.index(b"PK\x01\x02")
    content[first + 42 : first + 46] = shift.to_bytes(4, "little")
    content[listed + 42 : listed + 46] = (shift - len(header)).to_bytes(4, "little")
    assert name.encode() in content[listed:end]
    path.write_bytes(content)
    refused(path, "damaged")
