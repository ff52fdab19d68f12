"""Reads the layout of nnU-Net and the Medical Segmentation Decathlon: imagesTr, imagesTs, labelsTr, dataset.json.

imagesTr/CASE_0000.nii.gz is the first channel of CASE, as dataset.json names it ("channel_names", or "modality" of version 1);
imagesTr/CASE.nii.gz is its only one; labelsTr/CASE.nii.gz its label map. Four digits at the end of a name are a channel unless
there is a label map of the whole name, or no file of channel 0000.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.subjects import KNOWN, SUFFIX
from data_pipelines.survey.found import UNNAMED, Item, Kind
from data_pipelines.survey.visits import split_visit
from data_pipelines.survey.words import split

NAME = "nnU-Net"
IMAGES = re.compile(r"images(tr|ts|va|val|test)", re.IGNORECASE)
LABELS = re.compile(r"labels(tr|ts|va|val|test)", re.IGNORECASE)
CHANNEL = re.compile(r"(.+)_(\d{4})")


def items(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """The files directly in imagesTr, labelsTr and the like, at any depth.

    Args:
      root: where dataset.json is read.
      names: of files, below the root.
    """
    inside = {name: path for name in names if _of_layout((path := PurePosixPath(name)).parent.name)}
    labelled: dict[PurePosixPath, set[str]] = {}
    firsts = set()
    for path in inside.values():
        if LABELS.fullmatch(path.parent.name):
            labelled.setdefault(path.parent.parent, set()).add(_stem(path))
        elif (match := CHANNEL.fullmatch(_stem(path))) and match[2] == "0000":
            firsts.add((path.parent, match[1]))
    channels = {folder: _channels(root / folder) for folder in {path.parent.parent for path in inside.values()}}
    found = {}
    for name, path in inside.items():
        stem, dataset = _stem(path), path.parent.parent
        if LABELS.fullmatch(path.parent.name):
            images = f"images{path.parent.name[len('labels') :]}"
            found[name] = Item(name, NAME, _case(dataset, images, stem), *_person(stem), "label").left_out(
                "label map: by its folder", Kind.LABEL_MAP
            )
            continue
        match = CHANNEL.fullmatch(stem)
        if match and stem not in labelled.get(dataset, ()) and (path.parent, match[1]) in firsts:
            stem, number = match.groups()
        else:
            number = ""
        named = channels[dataset]
        # Of a file without a number dataset.json knows the name if there is only one.
        only = named.get(0, UNNAMED) if len(named) == 1 else UNNAMED
        channel = named.get(int(number), number) if number else only
        case = _case(dataset, path.parent.name, stem)
        found[name] = Item(name, NAME, case, *_person(stem), channel, (number,) if number else ())
    return found


def modalities(root: Path, name: str) -> str:
    """The names of dataset.json for the channels of a file of several, for people; empty where there are none."""
    return ", ".join(_channels(root / PurePosixPath(name).parent.parent).values())


def _of_layout(folder: str) -> bool:
    return bool(IMAGES.fullmatch(folder) or LABELS.fullmatch(folder))


def _stem(path: PurePosixPath) -> str:
    return SUFFIX.sub("", path.name)


def _case(dataset: PurePosixPath, images: str, stem: str) -> str:
    return str(dataset / images.lower() / stem)


def _person(stem: str) -> tuple[str, str]:
    """Subject and visit: a name is one person's, but for a visit at its end."""
    if known := KNOWN.search(stem):
        return known.group(1), stem[known.end(1) :].strip("-_. ")
    words = split(stem)
    for n in range(1, len(words)):
        visit, rest = split_visit(words[n:], t_is_visit=True)
        named = any(character.isdigit() for word in words[:n] for character in word)
        if named and visit and not rest and not words[n].isdecimal():
            end = re.search(r"[-_. ]+".join(map(re.escape, words[:n])), stem).end()
            return stem[:end], visit
    return stem, ""


def _channels(folder: Path) -> dict[int, str]:
    """The names of channels by their numbers; none where they are not told, or not told apart."""
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8-sig"))
        named = content.get("channel_names") or content.get("modality") or {}
        found = {int(number): str(name).strip() for number, name in dict(named).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
    distinct = {name.casefold() for name in found.values()}
    return found if len(distinct) == len(found) and all(found.values()) else {}
