"""Files of safetensors, as its own library writes them and damaged."""

import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from medjax.errors import UserError
from medjax.interop.safetensors_load import save_tensors
from medjax.interop.torch_load import load_state_dict, load_state_dicts

pytest.importorskip("safetensors")

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(path, *words):
    for read in (load_state_dict, lambda path: load_state_dicts(path, ("model", ""))):
        with pytest.raises(UserError) as raised:
            read(path)
        message = str(raised.value)
        assert "\n" not in message and len(message) < 400
        assert all(word in message for word in (str(path), *words)), message


def crafted(path, header: object, numbers: bytes = b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + numbers)
    return path


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, jnp.bfloat16, np.int64])
def test_kinds_of_numbers(dtype, tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"a.b": NUMBERS.astype(dtype), "n": np.ones((), dtype)})
    arrays = load_state_dict(tmp_path / "a.safetensors")
    assert arrays["a.b"].dtype == dtype and not arrays["a.b"].flags.writeable
    np.testing.assert_array_equal(arrays["a.b"], NUMBERS.astype(dtype))
    assert arrays["n"].shape == ()


def test_it_is_told_by_its_content(tmp_path):
    save_tensors(tmp_path / "a.bin", {"a.b": NUMBERS})
    np.testing.assert_array_equal(load_state_dict(tmp_path / "a.bin")["a.b"], NUMBERS)


def test_parts(tmp_path):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"model._orig_mod.a.b": NUMBERS, "ema.module.a.b": 2 * NUMBERS, "step": np.ones(1, np.float32)})
    refused_of_one = pytest.raises(UserError, match="holds several state dicts .'ema', 'model'.")
    with refused_of_one:
        load_state_dict(path)
    np.testing.assert_array_equal(load_state_dict(path, "ema")["a.b"], 2 * NUMBERS)
    both = load_state_dicts(path, ("model", "ema", ""))
    assert {name: float(part["a.b"][0, 1]) for name, part in both.items()} == {"model": 1, "ema": 2}


def test_cut_short_anywhere(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"a.b": NUMBERS, "c.d": NUMBERS})
    whole = (tmp_path / "a.safetensors").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "a.safetensors").write_bytes(whole[:length])
        refused(tmp_path / "a.safetensors", "is a damaged safetensors file")


def test_a_changed_byte_of_the_header_is_noticed_or_changes_a_name_alone(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"a.b": NUMBERS})
    whole = (tmp_path / "a.safetensors").read_bytes()
    for at in range(len(whole) - NUMBERS.nbytes):
        (tmp_path / "a.safetensors").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            (array,) = load_state_dict(tmp_path / "a.safetensors").values()
        except UserError as error:
            assert "\n" not in str(error)
        else:
            np.testing.assert_array_equal(array.ravel(), NUMBERS.ravel())


def tensor(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "numbers"),
    [
        ({"a": tensor(shape=(2**40,), offsets=(0, 2**42))}, b"1234"),
        ({"a": tensor(shape=(2**62, 0), offsets=(0, 0))}, b""),
        ({"a": tensor(shape=(1,) * 70)}, b"1234"),
        ({"a": tensor("F8_E4M3", offsets=(0, 1))}, b"1"),
        ({"a": tensor(), "b": tensor()}, b"1234"),
        ({"a": tensor(offsets=(-4, 0))}, b"1234"),
        (b"[" * 100_000, b""),
        (b'{"a":' * 100_000, b""),
        ({"a\x1b[2J": tensor("wrong\x1b")}, b"1234"),
    ],
)
def test_headers_that_cannot_be(header, numbers, tmp_path):
    refused(crafted(tmp_path / "a.safetensors", header, numbers), "damaged")


def test_a_header_of_huge_length(tmp_path):
    (tmp_path / "a.safetensors").write_bytes((2**62).to_bytes(8, "little") + b'{"a')
    refused(tmp_path / "a.safetensors", "damaged safetensors file")


def test_nothing_in_it(tmp_path):
    refused(crafted(tmp_path / "a.safetensors", {}), "holds no state dict")


def test_where_it_is_not_installed(tmp_path, monkeypatch):
    save_tensors(tmp_path / "a.safetensors", {"a.b": NUMBERS})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(tmp_path / "a.safetensors", "is a safetensors file: pip install safetensors")
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(ValueError, match="needs safetensors: pip install safetensors"):
        save_tensors(tmp_path / "b.safetensors", {})
