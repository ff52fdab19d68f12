"""Reads OASIS 1 and 2 as downloaded: OAS1_0001_MR1/RAW/..._mpr-1_anon.hdr, OAS2_0001_MR1/RAW/mpr-1.nifti.hdr.

A visit (MR1) has up to four repeats of one T1 scan, mpr-1 to mpr-4: the first is used. What lies in PROCESSED and FSL_SEG was
made from them. OASIS 3 is named as BIDS is.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.survey.found import Item, Kind

NAME = "OASIS"
SESSION = re.compile(r"(OAS[12]_\d{4})_(MR\d+)", re.IGNORECASE)
REPEAT = re.compile(r"mpr-(\d)", re.IGNORECASE)
SEGMENTED = re.compile(r"fseg|FSL_SEG", re.IGNORECASE)


def items(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """The files below a folder of a session."""
    return {name: item for name in names if (item := _item(name))}


def _item(name: str) -> Item | None:
    path = PurePosixPath(name)
    where, session = next(((n, m) for n, part in enumerate(path.parts[:-1]) if (m := SESSION.match(part))), (0, None))
    if session is None:
        return None
    repeat = REPEAT.search(path.name)
    item = Item(
        name,
        NAME,
        case="/".join(path.parts[: where + 1]),
        subject=session[1],
        visit=session[2],
        channel="T1",
        preference=(int(repeat[1]) if repeat else 9, name),
        grid="" if "RAW" in path.parts else "atlas",  # of what is made from the scans, their label maps too
    )
    if SEGMENTED.search(name):
        return item.left_out("label map: by its name", Kind.LABEL_MAP)
    if "PROCESSED" in path.parts:
        return item.left_out("OASIS PROCESSED: made from the scans in RAW")
    return item
