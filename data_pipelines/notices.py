"""Tells what is doubtful in files that can be used: a reader notes it, and one line a kind says how many files it is."""

import dataclasses
import enum
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path


class Kind(enum.Enum):
    """Names what can be doubtful; the value is the sentence that a user reads."""

    UNPLACED = (
        "neither sform nor qform is set, so the axes are taken to run to the left, the front and the top, as nibabel, FSL "
        "and SPM do; whether left and right are right, the file does not say"
    )
    DISAGREE = "sform and qform place the voxels differently; the sform is used, as nibabel and FSL do"
    SFORM_UNUSABLE = "the sform is empty or damaged; the qform is used"
    PIXDIM = "the voxel sizes (pixdim) are not those of the sform; the sform's are used"
    QUATERNION = "the quaternion of the qform is longer than 1; it is scaled to 1"
    NEGATIVE = "voxel sizes (pixdim) below 0; their signs are not used"
    UNIT = "the unit (xyzt_units) is none of the standard's; millimetres are assumed"
    SCALING = "scl_slope or scl_inter is infinite or NaN; the values are used as they are stored"
    SHEARED = "the axes are not at right angles, which ITK refuses; see docs/data.md"
    NAN = "NaN is taken for background"
    ANALYZE = (
        "Analyze files hold no directions, so the axes are taken to run to the left, the front and the top, as nibabel and "
        "FSL do; whether left and right are right, the file does not say"
    )
    ANALYZE_PLANE = (
        "the Analyze header names another plane than axial (orient), which no reader relies on; it is not used"
    )
    MGH_UNPLACED = "directions are not set; FreeSurfer's own are taken: left, bottom, front"
    SUFFIX = "the name says gzipped and the content is not, or the other way round; it is read as what it is"


@dataclasses.dataclass(frozen=True)
class Notice:
    """One thing that is doubtful in one file.

    Attributes:
      kind: what it is; files are counted by it.
      detail: what is special to this file, such as a share; shown of the first file only.
    """

    kind: Kind
    detail: str = ""


def lines(seen: Iterable[tuple[str | Path, Sequence[Notice]]]) -> list[str]:
    """Counts notices of files: one line a kind, in the order of `Kind`, with the first file that has it.

    Args:
      seen: the path, or name, of each file, and its notices.
    """
    by_kind: dict[Kind, list[tuple[str | Path, str]]] = defaultdict(list)
    for path, notices in seen:
        for kind, detail in {notice.kind: notice.detail for notice in notices}.items():
            by_kind[kind].append((path, detail))
    told = []
    for kind in Kind:
        if found := by_kind.get(kind):
            path, detail = found[0]
            files = "1 file" if len(found) == 1 else f"{len(found)} files"
            first = f"{path}, {detail}" if detail else f"{path}"
            told.append(
                f"{files}: {kind.value} ({first})" if len(found) == 1 else f"{files}: {kind.value} (first {first})"
            )
    return told


def tell(seen: Iterable[tuple[str | Path, Sequence[Notice]]]) -> None:
    """Prints `lines` on stderr."""
    for line in lines(seen):
        print(line, file=sys.stderr)
