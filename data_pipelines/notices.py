"""Tells what is doubtful in files that can be used: a reader notes it, and one line a kind says how many files it is."""

import dataclasses
import enum
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


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
    SHEARED = (
        "the axes are not at right angles, which ITK refuses; what is interpolated (data.spacing, data.fit) comes to a straight "
        "grid, and samples get straight axes; see docs/data.md"
    )
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
    FAR_CT = (
        "many voxels have one value far from all others, as padding of CT has, which leaves tissue little of the range; set "
        'data.window="fixed" and data.window_range=(-1000, 1000)'
    )
    FAR = (
        "many voxels have one value far from all others, which leaves these little of the range; set "
        'data.window="fixed" and data.window_range to the range of the others, or crop them away'
    )
    BRAIN = "cropped to the brain, whose box fills"


@dataclasses.dataclass(frozen=True)
class Notice:
    """One thing that is doubtful in one file.

    Attributes:
      kind: what it is; files are counted by it.
      detail: what is special to this file, such as a share; shown of the first file only.
      share: of the voxels, of kinds that every file has more or less of: of those the range over all files is shown.
    """

    kind: Kind
    detail: str = ""
    share: float | None = None


def as_plain(notices: Iterable[Notice]) -> list[dict[str, Any]]:
    """Makes JSON data of notices."""
    return [dataclasses.asdict(notice) | {"kind": notice.kind.name} for notice in notices]


def from_plain(plain: Iterable[Mapping[str, Any]]) -> list[Notice]:
    """Makes notices of what `as_plain` made; of kinds that only another version knows none."""
    known = [notice for notice in plain if notice["kind"] in Kind.__members__]
    return [Notice(Kind[notice["kind"]], notice["detail"], notice["share"]) for notice in known]


def lines(seen: Iterable[tuple[str | Path, Sequence[Notice]]]) -> list[str]:
    """Counts notices of files: one line a kind, in the order of `Kind`, with the first file that has it.

    Args:
      seen: the path, or name, of each file, and its notices.
    """
    by_kind: dict[Kind, list[tuple[str | Path, Notice]]] = defaultdict(list)
    for path, notices in seen:
        for kind, notice in {notice.kind: notice for notice in notices}.items():
            by_kind[kind].append((path, notice))
    told = []
    for kind in Kind:
        if found := by_kind.get(kind):
            path, detail = found[0][0], found[0][1].detail
            files = "1 file" if len(found) == 1 else f"{len(found)} files"
            if found[0][1].share is not None:
                told.append(f"{files}: {kind.value} {_range_of_shares(found)}")
                continue
            first = f"{path}, {detail}" if detail else f"{path}"
            told.append(
                f"{files}: {kind.value} ({first})" if len(found) == 1 else f"{files}: {kind.value} (first {first})"
            )
    return told


def _range_of_shares(found: Sequence[tuple[str | Path, Notice]]) -> str:
    shares = [notice.share for _, notice in found]
    if len(found) == 1:
        return f"{shares[0]:.0%} of the scan ({found[0][0]})"
    least, _ = found[int(np.argmin(shares))]
    return f"{min(shares):.0%} to {max(shares):.0%} of the scan, {np.median(shares):.0%} at the median (least {least})"


def tell(seen: Iterable[tuple[str | Path, Sequence[Notice]]]) -> None:
    """Prints `lines` on stderr."""
    for line in lines(seen):
        print(line, file=sys.stderr)
