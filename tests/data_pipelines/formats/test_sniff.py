"""Files that are not what their names say, and gzip streams that are damaged somewhere."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats import nifti, sniff
from data_pipelines.formats.sniff import NotFetchedError
from data_pipelines.notices import Kind

ARRAY = np.random.default_rng(0).integers(0, 1000, (9, 10, 11)).astype(np.int16)
CONTENT = nib.Nifti1Image(ARRAY, np.diag([1, 2, 3, 1])).to_bytes()


def refused(path, expected, kind=DataError):
    for function in (nifti.look, nifti.read):
        with pytest.raises(kind, match=expected) as raised:
            function(path)
        assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "noted"),
    [
        ("a.nii", CONTENT, []),
        ("a.nii.gz", gzip.compress(CONTENT, mtime=0), []),
        ("A.NII.GZ", gzip.compress(CONTENT, mtime=0), []),
        ("a.nii", gzip.compress(CONTENT, mtime=0), [Kind.SUFFIX]),
        ("a.nii.gz", CONTENT, [Kind.SUFFIX]),
        ("a.img", CONTENT, []),
        ("a.hdr", CONTENT, []),
        ("a.img.gz", gzip.compress(CONTENT, mtime=0), []),
    ],
)
def test_a_file_is_read_as_what_it_is_whatever_its_name(tmp_path, name, content, noted):
    (tmp_path / name).write_bytes(content)
    volume = nifti.read(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert [notice.kind for notice in volume.notices] == noted
    assert nifti.look(tmp_path / name).notices == volume.notices


def test_a_wrong_suffix_is_noted_besides_what_the_header_leaves_open(tmp_path):
    content = bytearray(CONTENT)
    content[252:256] = bytes(4)  # qform_code and sform_code
    (tmp_path / "a.nii.gz").write_bytes(content)
    assert [notice.kind for notice in nifti.look(tmp_path / "a.nii.gz").notices] == [Kind.UNPLACED, Kind.SUFFIX]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            b"../../.git/annex/objects/3k/Zq/SHA256E-s12--ab.nii.gz/SHA256E-s12--ab.nii.gz",
            "`datalad get FILE` or `git annex",
        ),
        (b"/annex/objects/SHA256E-s120331--0af1.nii.gz\n", "`datalad get FILE` or `git annex get FILE` fetches it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "`git lfs pull` fetches it"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.img"])
def test_pointers_name_the_command_that_fetches_the_content(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, expected, NotFetchedError)


def test_the_voxels_of_a_pair_may_be_a_pointer_too(tmp_path):
    nib.save(nib.Nifti1Pair(ARRAY, np.eye(4)), tmp_path / "a.hdr")
    (tmp_path / "a.img").write_bytes(b"/annex/objects/SHA256E-s120331--0af1.img\n")
    with pytest.raises(NotFetchedError, match="a.img: its content is not here"):
        nifti.look(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    (tmp_path / "a.img").symlink_to("../.git/annex/objects/aa/bb/KEY/KEY")
    with pytest.raises(NotFetchedError, match="a.img: its content is not here"):
        nifti.look(tmp_path / "a.hdr")


def test_links_to_nowhere_are_told_apart(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("../.git/annex/objects/aa/bb/KEY/KEY")
    refused(tmp_path / "a.nii.gz", "`datalad get FILE`", NotFetchedError)
    (tmp_path / "b.nii.gz").symlink_to("/nowhere/b.nii.gz")
    refused(tmp_path / "b.nii.gz", "a link to /nowhere/b.nii.gz, which does not exist")
    refused(tmp_path / "c.nii.gz", "no such file")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page; the download failed"),
        (b"<html>\n<head>" + b"x" * 9000, "a web page; the download failed"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML text"),
        (b'{"error": "token expired"}', "a JSON text"),
        (b"PK\x03\x04" + bytes(500), "a zip archive; unpack it"),
        (b"\xfd7zXZ\0" + bytes(500), "compressed by xz"),
        (b"NRRD0004\ntype: short\n", "an NRRD file; convert it to NIfTI"),
        (b"ObjectType = Image\nNDims = 3\n", "a MetaImage file; convert"),
        (bytes(128) + b"DICM" + bytes(500), "a DICOM file; give it the suffix .dcm"),
        (gzip.compress(gzip.compress(CONTENT, mtime=0), mtime=0), "gzipped twice; `gunzip` it once"),
        (gzip.compress(b"<html>not found</html>", mtime=0), "a web page"),
        (b"subject,age\n1,2\n", "not a readable NIfTI file"),
        (bytes(1000), "not a readable NIfTI file"),
        (CONTENT[:200], "not a readable NIfTI file"),
        (CONTENT[:347] + b"x" + CONTENT[348:], "not a readable NIfTI file"),
        (CONTENT[:-1], "the header claims 2332 bytes, 2331 are there"),
        (b"\x1f\x8b\x08" + bytes(500), "gzip|NIfTI"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_no_scan_is_named_for_what_it_is(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, expected)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.nii.gz").mkdir()
    refused(tmp_path / "a.nii.gz", "cannot be read .Is a directory.")


def test_a_flipped_bit_anywhere_in_the_stream_is_refused(tmp_path):
    content = gzip.compress(CONTENT)
    for byte in range(10, len(content), 17):  # behind gzip's own header
        damaged = bytearray(content)
        damaged[byte] ^= 4
        (tmp_path / "a.nii.gz").write_bytes(damaged)
        with pytest.raises(DataError):
            nifti.read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("back", [1, 4, 5, 8])
def test_a_flipped_bit_in_the_trailer_is_refused(tmp_path, back):
    damaged = bytearray(gzip.compress(CONTENT))
    damaged[-back] ^= 1  # the length, then the checksum
    (tmp_path / "a.nii.gz").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged gzip .*incorrect (data|length) check"):
        nifti.read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("missing", [1, 8, 9, 300])
def test_a_stream_cut_short_is_refused(tmp_path, missing):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(CONTENT)[:-missing])
    with pytest.raises(DataError, match="damaged gzip .the gzip stream is cut short"):
        nifti.read(tmp_path / "a.nii.gz")


def test_damage_behind_the_voxels_is_refused(tmp_path):
    # Stored, not deflated, so that the flipped bit is a byte of what lies behind the voxels.
    stored = bytearray(gzip.compress(CONTENT + b"more" * 100, compresslevel=0))
    stored[-100] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(stored)
    with pytest.raises(DataError, match="incorrect data check"):
        nifti.read(tmp_path / "a.nii.gz")


@pytest.mark.parametrize("behind", [b"\0" * 512, b"x", b"\x1f", b"garbage" * 10000])
def test_bytes_behind_the_end_of_the_stream_are_passed_over(tmp_path, behind):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(CONTENT) + behind)
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii.gz").array, ARRAY)


@pytest.mark.parametrize("size", [400, 1000, 2000])
def test_streams_of_several_members_are_one(tmp_path, size):
    pieces = [CONTENT[start : start + size] for start in range(0, len(CONTENT), size)]
    content = b"".join(gzip.compress(piece) for piece in pieces) + gzip.compress(b"", mtime=0)  # as bgzip ends
    (tmp_path / "a.nii.gz").write_bytes(content)
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.nii.gz").array, ARRAY)
    (tmp_path / "a.nii.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError):
        nifti.read(tmp_path / "a.nii.gz")


def test_values_may_begin_like_anything(tmp_path):
    array = np.frombuffer(b"PK\x03\x04<html>{" + bytes(range(1, 54)), np.uint8).reshape(4, 4, 4, order="F")
    nib.save(nib.Nifti1Pair(array, np.eye(4)), tmp_path / "a.hdr")
    assert (tmp_path / "a.img").read_bytes().startswith(b"PK")
    np.testing.assert_array_equal(nifti.read(tmp_path / "a.img").array, array)


def test_first_bytes_are_those_inflated(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    assert sniff.first_bytes(tmp_path / "a") == (CONTENT[:4096], False)
    (tmp_path / "a").write_bytes(gzip.compress(CONTENT))
    start, zipped = sniff.first_bytes(tmp_path / "a")
    assert zipped and CONTENT.startswith(start) and len(start) > 540
    assert zlib.crc32(start) == zlib.crc32(CONTENT[: len(start)])
