"""Tells by its first bytes what a file is, whatever its name says, and why it is no scan where it is none."""

import os
import zlib
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.formats import gzipped

FIRST_BYTES = 4096  # of a file, inflated if need be; all headers that are read here are shorter

FETCH_ANNEX = "its content is not here: `datalad get FILE` or `git annex get FILE` fetches it"
FETCH_LFS = "its content is not here: `git lfs pull` fetches it"

# By the first bytes, in lower case; a scan begins with none of them.
NO_SCANS = (
    (b"<!doctype", "a web page; the download failed (a login, or a wrong address), fetch it again"),
    (b"<html", "a web page; the download failed (a login, or a wrong address), fetch it again"),
    (b"<?xml", "an XML text, as servers send with an error; fetch it again"),
    (b'{"', "a JSON text, as servers send with an error; fetch it again"),
    (b"pk\x03\x04", "a zip archive; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"bzh", "compressed by bzip2; `bunzip2` it"),
    (b"\xfd7zxz", "compressed by xz; `unxz` it"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd; `unzstd` it"),
    (gzipped.MAGIC, "gzipped twice; `gunzip` it once"),
    (b"nrrd0", "an NRRD file; convert it to NIfTI"),
    (b"objecttype", "a MetaImage file; convert it to NIfTI"),
    (b"\x89hdf", "an HDF5 file (MINC2, say); convert it to NIfTI"),
    (b"cdf\x01", "a NetCDF file (MINC1, say); convert it to NIfTI"),
    (b"#?radiance", "a photograph (Radiance HDR)"),
    (b"envi", "a header of ENVI, for pictures of the earth"),
    (b"\x89png", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
)
MOST_OF_A_POINTER = 1024  # bytes


class NotFetchedError(DataError):
    """Tells that a file stands for content that git-annex, DataLad or git LFS has not brought here."""


def first_bytes(path: Path) -> tuple[bytes, bool]:
    """The first `FIRST_BYTES` of what a file holds, inflated if it is gzipped, and whether it is.

    Raises:
      NotFetchedError: it is a pointer to content that is elsewhere.
      DataError: there is no such file, it cannot be read, is empty, or is a known kind of file that is no scan.
    """
    start = _beginning(path)
    zipped = start.startswith(gzipped.MAGIC)
    if zipped:
        try:
            start = gzipped.beginning(start, FIRST_BYTES)
        except zlib.error as error:
            raise DataError(f"{path}: damaged gzip ({reason(error)}); replace or remove it") from None
    _refuse_pointers(path, start)
    lower = start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in NO_SCANS:
        if lower.startswith(magic):
            raise DataError(f"{path}: {what}, or remove it")
    if start[128:132] == b"DICM":
        raise DataError(f"{path}: a DICOM file; give it the suffix .dcm and keep a series in a folder, or remove it")
    return start, zipped


def is_gzipped(path: Path) -> bool:
    """Whether a file of values alone, which may begin with any bytes, is gzipped.

    Raises:
      NotFetchedError, DataError: as `first_bytes`, but for other kinds of files.
    """
    start = _beginning(path)
    _refuse_pointers(path, start)
    return start.startswith(gzipped.MAGIC)


def reason(error: Exception) -> str:
    """Puts into one line what an error says; its name where it says nothing."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _beginning(path: Path) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(FIRST_BYTES)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); mend its permissions or the disk"
        ) from None
    if not start:
        raise DataError(f"{path}: the file is empty; fetch it again or remove it")
    return start


def _refuse_pointers(path: Path, start: bytes) -> None:
    """Raises for text that stands for content which is elsewhere."""
    if len(start) >= MOST_OF_A_POINTER:
        return
    # git-annex keeps "/annex/objects/KEY" in place of an unlocked file; a link checked out as text is the like of it.
    if b"annex/objects/" in start.split(b"\n")[0]:
        raise NotFetchedError(f"{path}: {FETCH_ANNEX}")
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise NotFetchedError(f"{path}: {FETCH_LFS}")


def _missing(path: Path) -> DataError:
    if not path.is_symlink():
        return DataError(f"{path}: no such file")
    target = os.readlink(path)
    if "annex/objects" in target:
        return NotFetchedError(f"{path}: {FETCH_ANNEX}")
    return DataError(f"{path}: a link to {target}, which does not exist; mend or remove it")
