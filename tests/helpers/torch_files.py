"""Files as `torch.save` writes them, made by hand so that anything in them can be wrong."""

import pathlib
import pickle
import zipfile

import numpy as np

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"


def integer(number: int) -> bytes:
    return pickle.dumps(number, 2)[2:-1]


def text(text: str) -> bytes:
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def integers(*numbers: int) -> bytes:
    return b"(" + b"".join(map(integer, numbers)) + b"t"


def tensor(key: str, numel: int, shape: bytes, strides: bytes, offset: int = 0, kind: str = "FloatStorage") -> bytes:
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu") + integer(numel)
    return TENSOR + b"(" + storage + b"tQ" + integer(offset) + shape + strides + b"\x89" + b"}tR"


def dictionary(**values: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in values.items()) + b"u"


def fragment(thing) -> bytes:
    """A thing as Python pickles it, to stand among others."""
    return pickle.dumps(thing, 2)[2:-1]


def write(path: pathlib.Path, pickled: bytes, storages: dict[str, bytes] | None = None, **records) -> pathlib.Path:
    """A checkpoint of this pickle, without its first two bytes and its last, and these storages."""
    with zipfile.ZipFile(path, "w", records.pop("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickled + b".")
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)
        for key, content in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", content)
    return path


NUMBERS = np.arange(6, dtype=np.float32)
GOOD = tensor("0", 6, integers(2, 3), integers(3, 1))
