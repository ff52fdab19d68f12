"""Reads ADNI as downloaded in NIfTI: SUBJECT/DESCRIPTION/DATE/IMAGE/file.

A visit is a day. Of the images of one contrast that a visit has, which are the same scan processed more or less, or its repeat,
one is used: no repeat (MPR-R) before repeats, then the most steps of processing (GradWarp, B1 correction, N3), then the first
by name. Calibration scans and localisers are left out.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.survey import words
from data_pipelines.survey.found import Item, Kind

NAME = "ADNI"
SUBJECT = re.compile(r"\d{3}_S_\d{4,5}")
DAY = re.compile(r"\d{4}-\d\d-\d\d(?=_|$)")
IMAGE = re.compile(r"[IS]\w+")
T1 = re.compile(r"MP-?RAGE|MPR(?![a-z])|SPGR|T1w?", re.IGNORECASE)
OTHERS = (
    (re.compile(r"FLAIR", re.IGNORECASE), "FLAIR"),
    (re.compile(r"fMRI|BOLD|rsf|resting", re.IGNORECASE), "fMRI"),
    (re.compile(r"DTI|DWI|diffusion", re.IGNORECASE), "DTI"),
    (re.compile(r"T2[-_ ]?star|T2\*|GRE", re.IGNORECASE), "T2star"),
    (re.compile(r"T2", re.IGNORECASE), "T2"),
    (re.compile(r"PD", re.IGNORECASE), "PD"),
)
REPEAT = re.compile(r"MPR-R|repeat", re.IGNORECASE)
STEP = re.compile(r"GradWarp|B1[-_ ]Correction|N3|Scaled", re.IGNORECASE)


def items(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """The files four folders below the subject's, or three: those with a day, or an image's number, in their path."""
    return {name: item for name in names if (item := _item(name))}


def _item(name: str) -> Item | None:
    folders = PurePosixPath(name).parts[:-1]
    where = next((n for n, folder in enumerate(folders) if SUBJECT.fullmatch(folder)), None)
    if where is None or len(folders) < where + 3:
        return None
    subject, description, day = folders[where : where + 3]
    if found := DAY.match(day):
        day = found.group()
    elif len(folders) < where + 4 or not IMAGE.fullmatch(folders[where + 3]):
        return None
    repeat = bool(REPEAT.search(description))
    item = Item(
        name,
        NAME,
        case="/".join([*folders[:where], subject, day]),
        subject=subject,
        visit=day,
        channel=_contrast(description),
        preference=(repeat, -len(set(map(str.lower, STEP.findall(description)))), name),
    )
    said = words.no_image((), words.split(description)) or words.no_image((), words.split(PurePosixPath(name).stem))
    return item.left_out(said[1], said[0] if said[0] is Kind.LABEL_MAP else Kind.OTHER) if said else item


def _contrast(description: str) -> str:
    """The contrast that a description tells; the description itself if it tells none."""
    if T1.search(description):
        return "T1"
    return next((channel for pattern, channel in OTHERS if pattern.search(description)), description)
