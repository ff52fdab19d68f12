"""The checksum in TFRecord files, CRC-32C (Castagnoli), by numpy: for those who read such files without TensorFlow.

A checksum of zeros and ones added modulo two is linear: of pieces that follow each other it is that of the first, carried
over as many zero bytes as the second is long, plus that of the second. So many short pieces are taken at once.
"""

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
PIECE = 256  # bytes taken one after the other, in all pieces at once


def crc32c(data: bytes) -> int:
    """Computes the CRC-32C of some bytes, RFC 3720 B.4."""
    if len(data) < 4:
        return _one_by_one(data) ^ 0xFFFFFFFF
    # Zeros in front change nothing in a checksum that begins at 0; the true beginning, all ones, goes into the first bytes.
    pieces = 1 << max(0, -(-len(data) // PIECE) - 1).bit_length()
    padded = np.zeros(pieces * PIECE, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[len(padded) - len(data) :][:4] ^= 0xFF
    table, crcs = _table(), np.zeros(pieces, np.uint32)
    for column in np.ascontiguousarray(padded.reshape(pieces, PIECE).T):
        crcs = table[(crcs ^ column) & 0xFF] ^ (crcs >> 8)
    length = PIECE
    while len(crcs) > 1:
        crcs = _carried(crcs[::2], length) ^ crcs[1::2]
        length *= 2
    return int(crcs[0]) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """Rotates and offsets a checksum, as TFRecord files hold it: one of a checksum is no good one."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _one_by_one(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = int(_table()[(crc ^ byte) & 0xFF]) ^ (crc >> 8)
    return crc


@functools.cache
def _table() -> np.ndarray:
    """Makes the checksums of each byte, [256] uint32."""
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crcs = np.where(crcs & 1, (crcs >> 1) ^ np.uint32(POLYNOMIAL), crcs >> 1)
    return crcs


def _carried(crcs: np.ndarray, length: int) -> np.ndarray:
    """Carries checksums [n] uint32 over so many zero bytes, a power of two of at least PIECE."""
    tables = _carrying(length)
    return functools.reduce(np.bitwise_xor, (tables[k][(crcs >> np.uint32(8 * k)) & 0xFF] for k in range(4)))


@functools.cache
def _carrying(length: int) -> np.ndarray:
    """Tells what becomes of each byte of a checksum over `length` zero bytes, [4, 256] uint32."""
    bytes_alone = np.arange(256, dtype=np.uint32)
    starts = np.stack([bytes_alone << np.uint32(8 * k) for k in range(4)])
    if length > PIECE:
        half = _carrying(length // 2)
        # What one half makes of them, the other half carries on.
        return functools.reduce(np.bitwise_xor, (half[k][(half >> np.uint32(8 * k)) & 0xFF] for k in range(4)))
    table, crcs = _table(), starts
    for _ in range(length):
        crcs = table[crcs & 0xFF] ^ (crcs >> 8)
    return crcs
