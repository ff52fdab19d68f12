"""Damages files the way disks, transfers and other programs do, and the way somebody would who means harm.

All of it is drawn from a `random.Random`: the same state, the same damage.
"""

import copy
import gzip
import io
import json
import random
import struct
import zipfile
from typing import Any

# What is at the edge of something, as parts of a binary file.
NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31), 2**62, 2**63 - 1)
FLOATS = (0.0, -0.0, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))
HEADER = 600  # bytes, where most damage is done
# And as values in JSON.
VALUES = (
    None, True, False, 0, 1, -1, 2**31, -(2**63), 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x", "\n\n", "\0",
    "../..", "/", "é\u202e\ud800", "a" * 5000, [], {}, [[]], [None] * 50, [1, 2, 3], {"": None}, {"name": 1},
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Changes one to four places of a binary file."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not data:
            break
        near = len(data) if rng.random() < 0.25 else min(len(data), HEADER)
        place = rng.randrange(near)
        match rng.randrange(9):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                packed = _number(rng)
                data[place : place + len(packed)] = packed
            case 3:
                place -= place % 4
                packed = _number(rng)
                data[place : place + len(packed)] = packed
            case 4:
                packed = struct.pack(rng.choice(("<f", ">f", "<d")), _float(rng))
                data[place : place + len(packed)] = packed
            case 5:
                del data[place:]
            case 6:
                del data[place : place + rng.choice((1, 4, 100))]
            case 7:
                data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
            case 8:
                start = rng.randrange(len(data))
                data[place:place] = data[start : start + rng.choice((1, 8, 64, 512))]
    return bytes(data)


def damaged_gzip(content: bytes, rng: random.Random) -> bytes:
    """Damages a gzip file inside, so that its checksum is right, or as a whole."""
    if rng.random() < 0.2:
        return damaged(content, rng)
    return gzip.compress(damaged(gzip.decompress(content), rng), 1, mtime=0)


def damaged_zip(content: bytes, rng: random.Random) -> bytes:
    """Damages a member of an uncompressed zip file, so that its checksum is right, or the file as a whole."""
    if rng.random() < 0.3:
        return damaged(content, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(out, "w") as archive:
        names = whole.namelist()
        victim = rng.choice([name for name in names if name.endswith(".pkl")] * 6 + names)
        for name in names:
            member = whole.read(name)
            archive.writestr(name, damaged_pickle(member, rng) if name == victim else member)
    return out.getvalue()


def damaged_pickle(content: bytes, rng: random.Random) -> bytes:
    """Damages a pickle as any file, or puts instructions in."""
    if rng.random() < 0.5:
        return damaged(content, rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 2, 8))):
        place = rng.randrange(2, max(3, len(data)))
        data[place:place] = rng.choice(PICKLED) * rng.choice((1, 1, 2, 20))
    return bytes(data)


# Instructions of pickles: containers, numbers, the memo, what names and calls functions, and a tuple of twice what is there.
PICKLED = (
    b")", b"]", b"}", b"(", b"t", b"l", b"d", b"0", b"1", b"2", b"N", b"R", b"b", b"u", b"s", b"e", b"a", b"Q", b"\x85",
    b"\x86", b"\x87", b"2\x86", b"\x93", b"\x94", b"K\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"h\x00", b"q\x00",
    b"h\xff", b"j\xff\xff\xff\xff", b"r\xff\xff\xff\x7f", b"X\x01\x00\x00\x00a", b"X\xff\xff\xff\x7f", b"\x8c\x01a",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", b"\x8a\x09" + b"\xff" * 8 + b"\x7f",
    b"\x8b\xff\xff\xff\x7f", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"I99999999999999999999\n", b"L" + b"9" * 300 + b"L\n", b"F1e999\n", b".",
    b"G\x7f\xf8\x00\x00\x00\x00\x00\x00", b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", b"P1\n", b"V\\ud800\n", b"\x81", b"\x92",
    b"o", b"i", b"\x82\x01",
)  # fmt: skip


def damaged_json(content: bytes, rng: random.Random) -> bytes:
    """Changes values, keys or bytes of a JSON file, nests it deeply, or makes it another kind of thing altogether."""
    kind = rng.random()
    if kind < 0.25:
        return damaged(content, rng)
    if kind < 0.28:
        return rng.choice((b"", b"[" * 100_000, b'{"a":' * 100_000, b"null", b"[]", b"{}", b"1", b'"a"', b"\xff\xfe{}"))
    tree = json.loads(content)
    for _ in range(rng.choice((1, 1, 1, 3))):
        tree = _changed(tree, rng)
    try:
        return json.dumps(tree, ensure_ascii=rng.random() < 0.9).encode(errors="surrogatepass")
    except RecursionError:  # nested too deeply to be written
        return damaged(content, rng)


def damaged_lines(content: bytes, rng: random.Random) -> bytes:
    """Damages a line of a file of one JSON object a line."""
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    lines[place] = damaged_json(lines[place], rng)
    return b"\n".join(lines) + b"\n" * rng.randrange(2)


def _changed(tree: Any, rng: random.Random) -> Any:
    """Changes one of the values or keys of a tree; its inner nodes are as likely as its leaves."""
    places = list(_places(tree))
    if not places:
        return copy.deepcopy(rng.choice(VALUES))
    holder, key = rng.choice(places)
    match rng.randrange(5):
        case 0 | 1:
            holder[key] = copy.deepcopy(rng.choice(VALUES))  # or one could be put into itself
        case 2:
            del holder[key]
        case 3:
            old = holder[key]
            number = isinstance(old, (int, float)) and not isinstance(old, bool)
            holder[key] = rng.choice((-old, old + 1, old * 1000, old * 10**6)) if number else str(old)
        case 4 if isinstance(holder, dict):
            holder[rng.choice(("", "x", "name", "version"))] = holder.pop(key)
        case 4:
            holder.insert(key, holder[key])
    return tree


def _places(tree: Any):
    """Yields every holder and key in a tree, however deep, as what is damaged may be nested deeper than Python recurses."""
    waiting = [tree]
    while waiting:
        holder = waiting.pop()
        items = holder.items() if isinstance(holder, dict) else enumerate(holder) if isinstance(holder, list) else ()
        for key, value in list(items):
            yield holder, key
            waiting.append(value)


def _number(rng: random.Random) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    number = rng.choice(NUMBERS) % 2 ** (8 * size)
    return number.to_bytes(size, rng.choice(("little", "big")))


def _float(rng: random.Random) -> float:
    return rng.choice((*FLOATS, rng.uniform(-1e6, 1e6)))
