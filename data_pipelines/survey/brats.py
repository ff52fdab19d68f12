"""Reads the names of BraTS of all years, and of collections named alike: CASE-t1n, CASE_t1c, UCSF-PDGM-0004_FLAIR.

BraTS-GLI-00000-000-t1n (2023 and on; the person, the visit, the series), BraTS-MEN-RT-0001-1_t1c (2024), BraTS2021_00000_flair,
BraTS20_Training_001_t1ce, Brats18_2013_2_1_t2, UCSF-PDGM-0004_FU003d_T1, UPENN-GBM-00001_11_T1GD.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.subjects import KNOWN, SUFFIX
from data_pipelines.survey.found import Item, Kind

NAME = "BraTS"
FILE = re.compile(
    r"(?P<case>(?:BraTS|UCSF-PDGM|UPENN-GBM)[-_\w]*?\d\w*?)[-_]"
    r"(?P<series>t1n|t1c|t2w|t2f|t1ce|t1gd|t1|t2|flair|swi|dwi|adc|asl|seg|gtv|segm|[a-z_]+_seg(?:m|mentation)"
    r"|(?:t1|flair|t1c|t2|swi|dwi|adc)_bias|dti_\w+)",
    re.IGNORECASE,
)
# One series, by the names of different years.
SAME = (("t1n", "t1"), ("t1c", "t1ce", "t1gd"), ("t2w", "t2"), ("t2f", "flair"))
LABEL_MAPS = re.compile(r"seg|gtv|segm|\w+_seg(m|mentation)", re.IGNORECASE)


def items(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """The files that are named so, at any depth."""
    return {name: item for name in names if (item := _item(name))}


def same_series(series: str) -> tuple[str, ...]:
    """The other names of a series, by year."""
    return next((tuple(n for n in names if n != series.lower()) for names in SAME if series.lower() in names), ())


def _item(name: str) -> Item | None:
    match = FILE.fullmatch(SUFFIX.sub("", PurePosixPath(name).name))
    if not match:
        return None
    case, series = match["case"], match["series"]
    known = KNOWN.match(case)
    subject = known.group(1) if known else case
    visit = case[len(subject) :].strip("-_")
    item = Item(name, NAME, case, subject, visit, series, same_series(series), preference=(name,))
    if LABEL_MAPS.fullmatch(series):
        return item.left_out("label map: by its name", Kind.LABEL_MAP)
    if series.lower().startswith("dti_"):
        return item.left_out("diffusion map: by its name")
    return item
