"""Files that PyTorch could have written, and files that nobody should open."""

import argparse
import collections
import datetime
import http
import io
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.interop import torch_load
from medjax.interop.torch_load import load_state_dict, load_state_dicts
from torch_files import GOOD, NUMBERS, dictionary, fragment, integer, integers, tensor, text, write

DATA = {"0": NUMBERS.tobytes()}


def refused(path: pathlib.Path, *words: str) -> None:
    with pytest.raises(UserError) as raised:
        load_state_dict(path)
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 400
    for word in (str(path), *words):
        assert word in message, message


def test_a_state_dict(tmp_path):
    arrays = load_state_dict(write(tmp_path / "a.pt", dictionary(weight=GOOD), DATA))
    assert list(arrays) == ["weight"]
    np.testing.assert_array_equal(arrays["weight"], NUMBERS.reshape(2, 3))
    assert not arrays["weight"].flags.writeable


def test_views_of_one_storage(tmp_path):
    """Transposed, from the middle, of one number, and empty."""
    views = dictionary(
        turned=tensor("0", 6, integers(3, 2), integers(1, 3)),
        middle=tensor("0", 6, integers(2), integers(2), offset=1),
        number=tensor("0", 6, b")", b")", offset=5),
        nothing=tensor("0", 6, integers(0, 3), integers(3, 1)),
    )
    arrays = load_state_dict(write(tmp_path / "a.pt", views, DATA))
    np.testing.assert_array_equal(arrays["turned"], NUMBERS.reshape(2, 3).T)
    np.testing.assert_array_equal(arrays["middle"], [1, 3])
    assert (arrays["number"].shape, float(arrays["number"])) == ((), 5.0)
    assert arrays["nothing"].shape == (0, 3)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("DoubleStorage", np.float64),
        ("HalfStorage", np.float16),
        ("BFloat16Storage", jnp.bfloat16),
        ("LongStorage", np.int64),
    ],
)
def test_kinds_of_numbers(kind, dtype, tmp_path):
    numbers = NUMBERS.astype(dtype)
    content = dictionary(a=tensor("0", 6, integers(6), integers(1), kind=kind))
    array = load_state_dict(write(tmp_path / "a.pt", content, {"0": numbers.tobytes()}))["a"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, numbers)


def test_what_training_scripts_wrap_around_it(tmp_path):
    ordered = (
        b"ccollections\nOrderedDict\n)R(" + text("module.weight") + GOOD + b"u" + dictionary(_metadata=b"}") + b"b"
    )
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + GOOD + b"\x88}tR"
    for content in (
        ordered,
        dictionary(state_dict=ordered, epoch=integer(7), loss=b"N"),
        dictionary(
            model=dictionary(weight=parameter), optimizer=dictionary(state=b"}", groups=b"](" + integer(1) + b"e")
        ),
    ):
        (tmp_path / "a.pt").unlink(missing_ok=True)
        arrays = load_state_dict(write(tmp_path / "a.pt", content, DATA))
        assert list(arrays) == ["weight"]
        np.testing.assert_array_equal(arrays["weight"], NUMBERS.reshape(2, 3))


class Attack:
    """Pickled, it is a program that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_pickle_that_would_run_something_does_not(protocol, tmp_path):
    pickled = pickle.dumps({"weight": Attack(tmp_path / "ran")}, protocol)
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    pickle.loads(pickled)
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    refused(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def settings(monkeypatch):
    """An object like the settings that training scripts keep, of a class that is not to be had when the file is read."""
    module = types.ModuleType("settings_of_theirs")
    module.Settings = type("Settings", (), {"__module__": module.__name__})
    monkeypatch.setitem(sys.modules, module.__name__, module)
    made = module.Settings()
    made.itself, made.numbers, made.default = made, {"lr": 3e-4, 7: [1, (2, 3)]}, collections.defaultdict(list, a=[1])
    made.odd = {module.Settings: {1}, (1, 2): b"bytes", "slice": slice(2)}
    return made


def test_what_lies_beside_state_dicts_is_passed_over(settings, tmp_path):
    ordered = b"ccollections\nOrderedDict\n)R(" + text("weight") + GOOD + b"u" + dictionary(_metadata=b"}") + b"b"
    attack = Attack(tmp_path / "ran")
    content = dictionary(
        epoch=integer(7),
        hyper_parameters=fragment(settings),
        callbacks=fragment({type(settings): {"best": attack}, "ModelCheckpoint{'every': 3}": {"path": "a.ckpt"}}),
        attack=fragment(attack),
        model=dictionary(**{"module.weight": tensor("1", 6, integers(6), integers(1))}),
        state_dict=ordered,
        optimizer_states=b"](" + dictionary(state=dictionary(exp_avg=GOOD)) + fragment(attack) + b"e",
    )
    data = DATA | {"1": (2 * NUMBERS).tobytes()}
    path = write(tmp_path / "a.ckpt", content, data)
    found = load_state_dicts(path, ("state_dict", "ema", "model"))
    assert list(found) == ["state_dict", "model"]
    np.testing.assert_array_equal(found["state_dict"]["weight"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(found["model"]["weight"], 2 * NUMBERS)
    assert not (tmp_path / "ran").exists()
    refused(path)  # where a state dict alone is expected
    # Damage is noticed in what is asked for, not elsewhere.
    write(path, content, DATA | {"1": b"short"})
    assert load_state_dicts(path, ("state_dict",))
    with pytest.raises(UserError, match="5 bytes for 'module.weight'"):
        load_state_dicts(path, ("model",))


SETTINGS = {
    "a number of NumPy's": np.float64(0.9),
    "an array": np.arange(3),
    "a namespace": argparse.Namespace(
        lr=1e-4, size=(128, 128), nested=argparse.Namespace(path=pathlib.PurePosixPath("/a"))
    ),
    "ordered": collections.OrderedDict(a=1, b=[2, (3, None)]),
    "default": collections.defaultdict(list, a=[1]),
    "plain": [3, "text", 2.5, None, True, {"a": [1]}, 2**70],
    "time": datetime.datetime(2026, 1, 2),
    "set": {1, 2},
    "frozen": frozenset("ab"),
    "bytes": b"abc",
    "enumeration": http.HTTPStatus.OK,
}


class Saved:
    """A tensor that Python pickles as PyTorch's own are, in whatever protocol, while PyTorch's names are made up."""

    def __reduce__(self):
        module = sys.modules["torch._utils"]
        return module._rebuild_tensor_v2, (Ellipsis, 0, (2, 3), (3, 1), False, collections.OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", sys.modules["torch"].FloatStorage, "0", "cpu", 6) if thing is Ellipsis else None


def saved(path: pathlib.Path, content, protocol: int, monkeypatch) -> pathlib.Path:
    """What torch.save(content, path, pickle_protocol=protocol) writes."""
    with monkeypatch.context() as patch:
        for name, attribute in (("torch", "FloatStorage"), ("torch._utils", "_rebuild_tensor_v2")):
            module = types.ModuleType(name)
            setattr(module, attribute, type(attribute, (), {"__module__": name, "__qualname__": attribute}))
            patch.setitem(sys.modules, name, module)
        pickled = io.BytesIO()
        Pickler(pickled, protocol).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled.getvalue())
        archive.writestr("archive/data/0", NUMBERS.tobytes())
    return path


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_beside_tensors_are_passed_over(name, protocol, tmp_path, monkeypatch):
    """Beside a state dict, and in it."""
    setting = SETTINGS[name]
    for content in (
        {"setting": setting, "weight": Saved()},
        {"args": setting, "model": {"weight": Saved()}, "n": setting},
    ):
        path = saved(tmp_path / "a.pt", content, protocol, monkeypatch)
        np.testing.assert_array_equal(load_state_dict(path)["weight"], NUMBERS.reshape(2, 3))
        assert list(load_state_dicts(path, ("model", ""))) in (["model"], [""])


def test_sizes_devices_and_types_of_pytorch_are_passed_over(tmp_path):
    size = b"ctorch\nSize\n(" + integers(1, 2) + b"tR"
    device = b"ctorch\ndevice\n(" + text("cuda") + integer(0) + b"tR"
    state = b"ctorch._utils\n_rebuild_parameter_with_state\n(" + GOOD + b"\x88}}tR"
    content = dictionary(size=size, device=device, dtype=b"ctorch\nfloat32\n", weight=state)
    assert list(load_state_dict(write(tmp_path / "a.pt", content, DATA))) == ["weight"]


def test_a_whole_model_is_told(tmp_path, settings):
    refused(write(tmp_path / "a.pt", fragment(settings), DATA), "names 'settings_of_theirs.Settings'", "state_dict()")
    path = write(tmp_path / "a.pt", dictionary(model=fragment(settings), step=integer(1)), DATA)
    refused(path, "names 'settings_of_theirs.Settings'", "save model.state_dict() alone")


@pytest.mark.parametrize(
    "command", ["os\nsystem", "posix\nsystem", "subprocess\nPopen", "builtins\neval", "__builtin__\nopen"]
)
def test_what_would_run_a_program_is_no_setting(command, tmp_path):
    """Nothing of it is run in any case; whoever made the file meant harm, though."""
    attack = b"c" + command.encode() + b"\n(" + text(f"touch {tmp_path}/ran") + b"tR"
    path = write(tmp_path / "a.pt", dictionary(model=dictionary(weight=GOOD), args=attack), DATA)
    refused(path, f"names '{command}'".replace("\n", "."))
    assert not (tmp_path / "ran").exists()
    assert load_state_dicts(path, ("model",))["model"]  # where the rest is anything


def test_a_part_is_read_by_its_name(tmp_path):
    data = DATA | {"1": (2 * NUMBERS).tobytes()}
    twice = tensor("1", 6, integers(6), integers(1))
    path = write(
        tmp_path / "a.pt",
        dictionary(model=dictionary(**{"_orig_mod.module.a.b": GOOD}), ema=dictionary(**{"a.b": twice})),
        data,
    )
    refused(path, "holds several state dicts ('model', 'ema'): save the one you mean alone")
    np.testing.assert_array_equal(load_state_dict(path, "model")["a.b"], NUMBERS.reshape(2, 3))
    np.testing.assert_array_equal(load_state_dict(path, "ema")["a.b"], 2 * NUMBERS)
    np.testing.assert_array_equal(load_state_dicts(path, ("state_dict",), "ema")["ema"]["a.b"], 2 * NUMBERS)
    both = load_state_dicts(path, ("model", "ema", ""))
    assert {name: list(part) for name, part in both.items()} == {"model": ["a.b"], "ema": ["a.b"]}
    flat = write(tmp_path / "b.pt", dictionary(**{"model.a.b": GOOD, "ema.a.b": twice}), data)
    assert list(load_state_dicts(flat, ("model", "ema", ""))) == ["model", "ema"]
    with pytest.raises(UserError, match="has no part 'other' .it holds 'model', 'ema'.: say which"):
        load_state_dict(path, "other", "say which")


def test_one_tensor_of_very_many_names(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_load, "MOST_NAMES", 3)
    again = {name: b"h\x01" for name in "bcd"}
    refused(write(tmp_path / "a.pt", dictionary(a=GOOD + b"q\x01", **again), DATA), "gives one tensor 4 names")
    del again["d"]
    assert len(load_state_dict(write(tmp_path / "a.pt", dictionary(a=GOOD + b"q\x01", **again), DATA))) == 3


def test_a_state_dict_alone_has_no_name(tmp_path):
    path = write(tmp_path / "a.pt", dictionary(weight=GOOD), DATA)
    assert list(load_state_dicts(path, ("state_dict", ""))) == [""]


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        (dictionary(model=dictionary(a=GOOD), step=integer(3)), "'model', 'step'"),
        (dictionary(state_dict=dictionary(a=GOOD, b=b"cos\nsystem\n")), "'state_dict'"),
        (dictionary(state_dict=b"}"), "'state_dict'"),
        (b"cos\nsystem\n", "Opaque"),
        (b"](" + GOOD + b"e", "list"),
    ],
)
def test_files_without_the_state_dicts_wanted(content, holds, tmp_path):
    path = write(tmp_path / "a.pt", content, DATA)
    with pytest.raises(UserError) as raised:
        load_state_dicts(path, ("state_dict", "ema", ""))
    assert f"{path} holds no state dict 'state_dict' or 'ema' (it holds {holds})" in str(raised.value)


@pytest.mark.parametrize(
    "kind", ["an instance", "an extension", "no mark", "exponentially itself", "storage of a text"]
)
def test_passing_over_asks_for_no_more_instructions(kind, tmp_path):
    path = write(tmp_path / "a.pt", BAD_PICKLES[kind][0], DATA)
    with pytest.raises(UserError) as raised:
        load_state_dicts(path, ("state_dict",))
    assert "\n" not in str(raised.value)


BAD_PICKLES = {
    "eval": (dictionary(a=b"cbuiltins\neval\n(" + text("1/0") + b"tR"), "builtins.eval"),
    "a name unused": (dictionary(a=b"cos\nsystem\n"), "os.system"),
    "a name of many lines": (dictionary(a=b"ca\x1b[2J\nb\n"), "names"),
    "an instance": (dictionary(a=b"(ios\nsystem\n"), "INST"),
    "a new object": (dictionary(a=b"ccollections\nOrderedDict\n)\x81"), "NEWOBJ"),
    "an extension": (dictionary(a=b"\x82\x01"), "EXT1"),
    "a huge text": (b"X\xff\xff\xff\xff", "damaged pickle"),
    "a huge bytearray": (b"\x96" + struct.pack("<Q", 2**62), "damaged pickle"),
    "a huge memo number": (b"]r\xff\xff\xff\x7f" + b"0", "damaged pickle"),
    "an empty stack": (b"R", "damaged pickle"),
    "no mark": (b"t", "damaged pickle"),
    "a list for a dictionary": (b"](" + text("a") + GOOD + b"u", "damaged pickle"),
    "a list as key": (b"}]Ns", "damaged pickle"),
    "nested without end": (b"]" * 100_000 + b"}" + b"a" * 100_000, "holds a list"),
    "itself": (b"]q\x00h\x00a", "holds a list"),
    "itself within": (b"}q\x00" + text("a") + b"h\x00s", "no state dict"),
    "exponentially itself": (b"})" + b"q\x00h\x00\x86" * 20 + b"Ns", "damaged pickle"),
    "shape of texts": (dictionary(a=tensor("0", 6, b"(" + text("6") + b"t", integers(1))), "damaged pickle"),
    "storage of a text": (dictionary(a=b"ctorch._utils\n_rebuild_tensor_v2\n(NK\x00)))tR"), "damaged pickle"),
    "no tensors": (dictionary(epoch=integer(3)), "no state dict ('epoch')"),
    "nothing": (b"}", "no state dict (it is empty)"),
    "two state dicts": (dictionary(model=dictionary(a=GOOD), ema=dictionary(a=GOOD)), "'model', 'ema'"),
    "a tensor alone": (GOOD, "holds a Tensor"),
}


@pytest.mark.parametrize("kind", BAD_PICKLES)
def test_other_pickles_are_refused(kind, tmp_path):
    pickled, words = BAD_PICKLES[kind]
    refused(write(tmp_path / "a.pt", pickled, DATA), words)


BAD_TENSORS = {
    "other kind": (tensor("0", 6, integers(6), integers(1), kind="QInt8Storage"), "QInt8Storage"),
    "no storage": (tensor("1", 6, integers(6), integers(1)), "lacks the numbers of 'a'"),
    "a storage elsewhere": (tensor("../data.pkl", 6, integers(6), integers(1)), "lacks the numbers"),
    "more than there is": (tensor("0", 2**40, integers(2**40), integers(1)), "24 bytes for 'a'"),
    "fewer than there are": (tensor("0", 5, integers(5), integers(1)), "24 bytes for 'a'"),
    "other dtype": (tensor("0", 6, integers(6), integers(1), kind="HalfStorage"), "not 6 numbers of float16"),
    "huge shape": (tensor("0", 6, integers(2**40, 2**40), integers(2**40, 1)), "shape (1099511627776, 1099511627776)"),
    "huge by repetition": (tensor("0", 6, integers(2**40), integers(0)), "of shape (1099511627776,) in 6 numbers"),
    "many axes": (tensor("0", 6, integers(*[1] * 99), integers(*[1] * 99)), "shape that cannot be"),
    "beyond the end": (tensor("0", 6, integers(6), integers(1), offset=1), "of shape (6,) in 6 numbers"),
    "beyond by strides": (tensor("0", 6, integers(2), integers(6)), "of shape (2,) in 6 numbers"),
    "before the start": (tensor("0", 6, integers(2), integers(1), offset=-1), "shape that cannot be"),
    "backwards": (tensor("0", 6, integers(6), integers(-1), offset=5), "shape that cannot be"),
    "negative shape": (tensor("0", 6, integers(-6), integers(1)), "shape that cannot be"),
    "fewer strides": (tensor("0", 6, integers(2, 3), integers(1)), "damaged"),
}


@pytest.mark.parametrize("kind", BAD_TENSORS)
def test_tensors_that_do_not_fit_their_storage(kind, tmp_path):
    pickled, words = BAD_TENSORS[kind]
    refused(write(tmp_path / "a.pt", dictionary(a=pickled), DATA), words)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "a.pt"
    refused(path, "no such file")
    refused(tmp_path, "is a folder")
    for content, words in (
        (b"", "is empty"),
        (b"hello", "not a PyTorch checkpoint"),
        (b"PK\x05\x06", "damaged or cut short"),
        (b"././@LongLink", "before version 0.2"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 130\n",
            "pointer in place of the file: `git lfs pull`",
        ),
        (b"/annex/objects/SHA256E-s1--0.pt\n", "`git annex get FILE` fetches it"),
        ((100).to_bytes(8, "little") + b'{"__metadata__"', "safetensors"),
    ):
        path.write_bytes(content)
        refused(path, words)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "not of PyTorch's")
    refused(write(path, dictionary(a=GOOD), DATA, byteorder=b"big"), "big-endian")


def test_a_file_cut_short_anywhere(tmp_path):
    whole = write(tmp_path / "whole.pt", dictionary(a=GOOD), DATA).read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.pt").write_bytes(whole[:length])
        refused(tmp_path / "cut.pt")


def test_a_changed_byte_is_noticed_or_changes_nothing(tmp_path):
    whole = write(tmp_path / "whole.pt", dictionary(a=GOOD), DATA).read_bytes()
    for at in range(len(whole)):
        (tmp_path / "bad.pt").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            arrays = load_state_dict(tmp_path / "bad.pt")
        except UserError as error:
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(arrays["a"], NUMBERS.reshape(2, 3))


def test_a_zip_bomb_is_refused_unread(tmp_path):
    bomb = {"0": bytes(50_000_000)}
    path = write(
        tmp_path / "a.pt",
        dictionary(a=tensor("0", 12_500_000, integers(12_500_000), integers(1))),
        bomb,
        compression=zipfile.ZIP_DEFLATED,
    )
    assert path.stat().st_size < 100_000
    refused(path, "is compressed")


def test_little_is_allocated(tmp_path):
    """Under a limit of memory, what claims to be huge is refused, not tried."""
    shapes = [tensor("0", 6, integers(2**40), integers(0)), tensor("0", 2**45, integers(2**45), integers(1))]
    pickles = [*(dictionary(a=shape) for shape in shapes), b"]r\xff\xff\xff\x7f0", b"\x96" + struct.pack("<Q", 2**40)]
    paths = [write(tmp_path / f"{i}.pt", pickled, DATA) for i, pickled in enumerate(pickles)]
    program = "\n".join(
        [
            "import pathlib, resource, sys",
            "from medjax.interop.torch_load import load_state_dict",
            "from medjax.errors import UserError",
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss",
            "for path in sys.argv[1:]:",
            "    try: load_state_dict(pathlib.Path(path))",
            "    except UserError: pass",
            "    else: sys.exit('read')",
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)",
        ]
    )
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000  # kilobytes
