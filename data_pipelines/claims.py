"""A header's claim of how large a volume is, held against what the file can hold, before any memory is taken for it."""

import math
import zlib
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.errors import DataError
from data_pipelines.formats.gzipped import inflated

MOST_VOXELS = 2**30  # 1024^3, 4 GiB as float32; a CT of the whole body has half of that
COMMON_RATIO = 32  # what gzip makes of scans is less; where a header claims more, the bytes are counted


def check_shape(path: Path, shape: Sequence[int]) -> None:
    """Raises DataError for more voxels than `MOST_VOXELS`."""
    if math.prod(int(n) for n in shape) > MOST_VOXELS:
        raise DataError(
            f"{path}: the header claims {'x'.join(str(n) for n in shape)} voxels, more than {MOST_VOXELS} (1024^3), which is "
            "the most a scan may have; correct it, crop the scan, or remove the file"
        )


def check_bytes(path: Path, claimed: int, gzipped: bool) -> None:
    """Raises DataError unless a file, inflated if it is gzipped, has as many bytes as its header claims.

    Args:
      path: of a scan.
      claimed: header and voxels together.
      gzipped: what the file is, whatever its name says.
    """
    there = path.stat().st_size
    if gzipped and claimed > there:
        # A suspicious claim is counted out, in little memory, and no further than it goes.
        there = claimed if claimed <= COMMON_RATIO * there else _inflated_bytes(path, claimed)
    if claimed > there:
        raise DataError(
            f"{path}: the header claims {claimed} bytes, {there} are there: cut short, or a damaged header; "
            "replace or remove it"
        )


def _inflated_bytes(path: Path, most: int) -> int:
    """How many bytes a gzipped file holds, counted up to `most`."""
    count = 0
    try:
        for piece in inflated(path):
            count += len(piece)
            if count >= most:
                break
    except (EOFError, zlib.error):
        pass  # cut short: what came until then counts
    return count
