"""Inflates gzip streams to their very end, where their checksum is."""

import zlib
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"\x1f\x8b\x08"
CHUNK = 2**14  # compressed bytes at a time; zlib makes no more than a thousand times as many of them
WITH_HEADER = 31  # `wbits` of zlib for a gzip header and trailer; the trailer's checksum and length are compared


def beginning(compressed: bytes, most: int) -> bytes:
    """The first bytes, up to `most`, of what the beginning of a gzip file holds; fewer where that says no more."""
    return zlib.decompressobj(WITH_HEADER).decompress(compressed, most)


def inflated(path: Path) -> Iterator[bytes]:
    """Yields what a gzip file holds, piece by piece. Bytes behind its end are passed over, further members are not.

    Raises:
      EOFError: the stream is cut short.
      zlib.error: it is damaged, or its checksum or length is not that of what was inflated.
    """
    with path.open("rb") as file:
        chunk = file.read(CHUNK)
        while chunk.startswith(MAGIC):
            member = zlib.decompressobj(WITH_HEADER)
            while not member.eof:
                if not chunk:
                    raise EOFError("the gzip stream is cut short")
                if piece := member.decompress(chunk):
                    yield piece
                chunk = member.unused_data if member.eof else file.read(CHUNK)
            if len(chunk) < len(MAGIC):
                chunk += file.read(CHUNK)
