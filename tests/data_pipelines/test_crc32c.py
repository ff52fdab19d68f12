import numpy as np
import pytest

from data_pipelines.crc32c import PIECE, crc32c, masked


def bit_by_bit(data: bytes) -> int:
    """As RFC 3720 defines it."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_values_that_rfc_3720_prints():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, PIECE - 1, PIECE, PIECE + 1, 5 * PIECE, 8 * PIECE, 3000])
def test_any_length_gives_what_its_bits_give_one_by_one(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == bit_by_bit(data)


def test_it_is_masked_as_a_tfrecord_file_holds_it(tmp_path):
    import tensorflow as tf

    content = np.random.default_rng(0).bytes(1000)
    with tf.io.TFRecordWriter(str(tmp_path / "a")) as file:
        file.write(content)
    framed = (tmp_path / "a").read_bytes()
    assert masked(crc32c(framed[:8])) == int.from_bytes(framed[8:12], "little")
    assert masked(crc32c(content)) == int.from_bytes(framed[-4:], "little")
