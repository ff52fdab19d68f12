"""Holds volumes of one kind, however many: low-passed copies of all, the first few whole, and a way to read any again."""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from medjax.errors import UserError
from medjax.host_memory import memory_size
from medjax.metrics.alignment import EDGE, low_passed

SHARE_OF_MEMORY = 0.6  # the rest is for programs, pictures and the system
FLAT = 0.002  # the range of a volume in [-1, 1] that shows nothing: a thousandth of what there is
NAMED = 5  # volumes named in a message


@dataclasses.dataclass(frozen=True)
class VolumeSet:
    """Holds volumes of one kind, voxels in the order of the files.

    Attributes:
      names: of all n, for people.
      subjects: subject of each volume; volumes of one subject count as one.
      low: [n, i, j, k] float32, low-passed copies of all.
      volumes: [m, I, J, K, 1] float32 in [-1, 1], the first m of n, which are compared with other sets.
      flat: the rows, of n, whose volumes are of one value everywhere.
      affine: [4, 4], of the first.
      digest: hexadecimal digits that other volumes would not have.
      load: a row of n to the volume [I, J, K], read anew.
    """

    names: tuple[str, ...]
    subjects: tuple[str, ...]
    low: np.ndarray
    volumes: np.ndarray
    flat: tuple[int, ...]
    affine: np.ndarray
    digest: str
    load: Callable[[int], np.ndarray]

    @property
    def compared(self) -> int:
        """Counts the volumes in memory, m."""
        return len(self.volumes)

    @property
    def total(self) -> int:
        """Counts all volumes, n."""
        return len(self.names)

    def volume(self, row: int) -> np.ndarray:
        """Gives the volume of any row of n, [I, J, K] float32 in [-1, 1]."""
        return self.volumes[row, ..., 0] if row < self.compared else self.load(row)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Gives all volumes, [size, I, J, K, 1] at a time; the last batch is filled up with what was in the one before.

        Every batch is the same array.
        """
        batch = np.zeros((size, *self.volumes.shape[1:]), np.float32)
        for start in range(0, self.total, size):
            for place, row in enumerate(range(start, min(start + size, self.total))):
                batch[place, ..., 0] = self.volume(row)
            yield batch


def volume_set(
    kind: str,
    names: Sequence[str],
    subjects: Sequence[str],
    shape: Sequence[int],
    affine: np.ndarray,
    load: Callable[[int], np.ndarray],
    compared: int,
) -> VolumeSet:
    """Reads every volume once, and keeps what `VolumeSet` says.

    Args:
      kind: "generated", for messages.
      names, subjects: of all volumes.
      shape: (I, J, K) of each.
      affine: [4, 4].
      load: as in `VolumeSet`.
      compared: how many to keep in memory.

    Raises:
      UserError: naming all volumes with voxels that are no finite numbers.
    """
    n = len(names)
    low = np.empty((n, *(min(edge, EDGE) for edge in shape)), np.float32)
    volumes = np.empty((min(n, compared), *shape, 1), np.float32)
    digest, flat, broken = hashlib.sha256(f"{tuple(shape)}".encode()), [], []
    for row in range(n):
        volume = np.asarray(load(row), np.float32)
        if not np.isfinite(volume.sum(dtype=np.float64)):
            bad = int(np.count_nonzero(~np.isfinite(volume)))
            broken.append(f"{names[row]} ({bad} of {volume.size} voxels are NaN or infinite)")
            continue
        low[row] = low_passed(volume[None, ..., None])[0]
        if row < len(volumes):
            volumes[row, ..., 0] = volume
        if volume.max() - volume.min() <= FLAT:
            flat.append(row)
        digest.update(np.ascontiguousarray(volume))
    if broken:
        raise UserError(
            f"{len(broken)} of {n} {kind} volumes hold no usable numbers: {listed(broken)}; "
            "draw them anew or take them away, and look for what made them"
        )
    return VolumeSet(tuple(names), tuple(subjects), low, volumes, tuple(flat), affine, digest.hexdigest(), load)


def listed(names: Sequence[str]) -> str:
    """Writes out the first few names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def check_memory(compared: int, skimmed: int, searched: int, shape: Sequence[int]) -> None:
    """Raises UserError unless all sets together fit into a part of the memory that this process may use.

    Args:
      compared: volumes of all sets that lie in memory.
      skimmed: volumes of all sets, of which low-passed copies do.
      searched: those of them that copies are looked for among: these twice.
      shape: of each.
    """
    low = math.prod(min(edge, EDGE) for edge in shape)
    needed, there = 4 * (compared * math.prod(shape) + (skimmed + searched) * low), SHARE_OF_MEMORY * memory_size()
    if needed > there:
        raise UserError(
            f"{compared} volumes of {tuple(shape)} and small copies of {skimmed} need {needed / 2**30:.1f} GiB, "
            f"{there / 2**30:.1f} may be used: set evaluate.count to compare fewer, or give this job more memory"
        )
