"""Reads the Brain Imaging Data Structure: sub-01/[ses-1/]anat/sub-01_ses-1_T1w.nii.gz.

The channel is the suffix (T1w, FLAIR) with the entities that make another image of it: "ce-gad_T1w", "space-MNI_desc-brain_T1w".
Of several alike (acq, rec, run), that of the fewest entities and the lowest run is used. Functional, diffusion and field map
folders are left out; so are derivatives, sourcedata and code, where the root is that of the raw data.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.subjects import SUFFIX
from data_pipelines.survey import words
from data_pipelines.survey.found import Item, Kind

NAME = "BIDS"
OF_A_SUBJECT = re.compile(r"sub-[a-z0-9]+|oas\w+_mr_d\d+|(anat|nifti)\d*")  # folders, OASIS 3's too
ENTITY = re.compile(r"([A-Za-z]+)-([A-Za-z0-9+]+)")
NOT_ANATOMY = (
    "func",
    "dwi",
    "fmap",
    "perf",
    "eeg",
    "ieeg",
    "meg",
    "beh",
    "nirs",
    "motion",
    "micr",
    "mrs",
    "figures",
    "xfm",
)
SUFFIXES_ELSEWHERE = (
    "bold",
    "sbref",
    "dwi",
    "epi",
    "asl",
    "m0scan",
    "phasediff",
    "magnitude1",
    "magnitude2",
    "fieldmap",
)
BESIDE = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")  # folders beside the subjects' own
ALIKE = ("acq", "rec", "run", "dir", "chunk", "task")  # entities of which one image is taken
WHOSE = ("sub", "ses")
RAW = ("rawdata", "raw", "bids")  # folders that may hold the subjects' own, beside derivatives


def items(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """The files that are named SUB_..._SUFFIX, in a folder of the subject or not."""
    found = {name: item for name in names if (item := _item(name))}
    return found if any(item.kind is Kind.IMAGE for item in found.values()) else {}


def _item(name: str) -> Item | None:
    path = PurePosixPath(name)
    pieces = SUFFIX.sub("", path.name).split("_")
    entities = [match.groups() for piece in pieces[:-1] if (match := ENTITY.fullmatch(piece))]
    suffix = pieces[-1]
    if not entities or entities[0][0].lower() != "sub" or ENTITY.fullmatch(suffix) or len(entities) < len(pieces) - 1:
        return None
    said = {key.lower(): value for key, value in entities}
    subject = f"{entities[0][0]}-{entities[0][1]}"
    folders = [folder.lower() for folder in path.parent.parts]
    own = next(
        (n for n, folder in enumerate(folders) if OF_A_SUBJECT.fullmatch(folder) or folder in BESIDE), len(folders)
    )
    dataset = [folder for folder in path.parent.parts[:own] if folder.lower() not in RAW]
    visit = f"ses-{said['ses']}" if "ses" in said else next((f for f in path.parts if f.lower().startswith("ses-")), "")
    makes_another = [f"{key}-{value}" for key, value in entities if key.lower() not in (*WHOSE, *ALIKE)]
    run = said.get("run", "")
    return _judged(
        Item(
            name,
            NAME,
            case="/".join([*dataset, subject, *([visit] if visit else [])]),
            subject=subject,
            visit=visit,
            channel="_".join([*makes_another, suffix]),
            aliases=("_".join([*(f"{key}-{value}" for key, value in entities if key.lower() not in WHOSE), suffix]),),
            preference=(len(entities), int(run) if run.isdecimal() else 0, name),
            grid=f"space-{said['space']}" if "space" in said else "",
        ),
        folders,
        suffix,
    )


def _judged(item: Item, folders: list[str], suffix: str) -> Item:
    """The item, as no image if its folders or its suffix say so."""
    beside = next((folder for folder in folders if folder in BESIDE), None)
    no_image = words.no_image((), (suffix,))
    if no_image and no_image[0] is Kind.LABEL_MAP:
        return item.left_out(no_image[1], Kind.LABEL_MAP)
    if beside:
        return item.left_out(f"BIDS {beside}: not the raw images")
    if no_image:
        return item.left_out(no_image[1])
    elsewhere = next((folder for folder in folders if folder in NOT_ANATOMY), None)
    if elsewhere or suffix.lower() in SUFFIXES_ELSEWHERE:
        return item.left_out(f"BIDS {elsewhere or suffix}: not anatomy")
    return item
