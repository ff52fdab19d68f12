"""Tells by headers, and by the values of a few files, what is no image though its name does not say so."""

import re
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import nibabel as nib

from data_pipelines.formats.headers import Look
from data_pipelines.subjects import SUFFIX
from data_pipelines.survey.found import Item, Kind
from data_pipelines.survey.peek import few_whole_values

FEWEST_SLICES = 4  # of a volume; localisers have one to three
SMALLEST = 8  # voxels along the longest edge
LABEL_INTENTS = ("label", "neuroname")
STATISTICS = tuple(nib.nifti1.intent_codes.label[code] for code in range(2, 25))  # "t test", "z score", ...
MORE_PEEKS = 9  # where the first three files of a group have one value each
MOST_PEEKS = 200  # of a group whose files are not alike
MOST_BEGINNINGS = 8  # of names; where there are more they are names of people, and one group
THREADS = 4
BY_VALUES = "label map: few whole values"


def unreadable_as_volume(look: Look) -> str | None:
    """Why a file does not hold one volume of numbers; None if it does."""
    shape = _shape(look)
    if len(shape) > 3:
        if "vector" in look.intent or "disp" in look.intent:
            return "vectors: by its header"
        return f"4D series: {shape[3]} volumes" if len(shape) == 4 else f"4D series: of shape {shape}"
    if len(shape) < 3 or min(shape) < 2:
        return f"single slice: of shape {shape}"
    if look.dtype.kind not in "iufb":
        return "colours: by its header" if look.dtype.names else f"no numbers: {look.dtype} values"
    return None


def no_image_by_header(look: Look) -> tuple[Kind, str] | None:
    """Says by its header what a file is instead of an image, and why; None where that does not say so."""
    if why := unreadable_as_volume(look):
        return Kind.OTHER, why
    intent = look.intent.lower()
    if intent in LABEL_INTENTS:
        return Kind.LABEL_MAP, "label map: by its header"
    if intent in STATISTICS:
        return Kind.OTHER, f"statistical map: {intent}, says its header"
    shape = _shape(look)
    if min(shape) < FEWEST_SLICES:
        return Kind.OTHER, f"localiser: {min(shape)} slices"
    if max(shape) < SMALLEST:
        return Kind.OTHER, f"too small: of shape {shape}"
    return None


def by_headers(items: Mapping[str, Item], looks: Mapping[str, Look]) -> dict[str, Item]:
    """The same items, those as no images whose headers say so; what a name has settled stays, but for what is no volume."""
    judged = {}
    for name, item in items.items():
        judged[name] = item
        if item.kind is Kind.OTHER or name not in looks:
            continue
        said = no_image_by_header(looks[name])
        if said and (item.kind is Kind.IMAGE or unreadable_as_volume(looks[name])):
            judged[name] = item.left_out(said[1], said[0])
    return judged


def by_values(items: Mapping[str, Item], looks: Mapping[str, Look]) -> tuple[dict[str, Item], list[str]]:
    """The same items, those as label maps that have few whole values; and what is in doubt, a line each.

    Files of one layout, channel, type of values and beginning of the name are one group, of which the first, the last and one
    between are looked into: if all three are label maps, all of the group are taken for some; if none is, for images. If they
    differ, each is looked into, up to `MOST_PEEKS`.

    Args:
      items: by name.
      looks: of those with a readable header, by name.
    """
    groups = _groups(items, looks)
    with ThreadPoolExecutor(THREADS) as pool:
        verdicts = list(pool.map(lambda names: _label_maps(names, looks), groups))
    judged = dict(items)
    doubts = []
    for names, found in zip(groups, verdicts, strict=True):
        for name in found:
            judged[name] = items[name].left_out(BY_VALUES, Kind.LABEL_MAP)
        if len(names) > MOST_PEEKS and 0 < len(found) < len(names):
            doubts.append(
                f"of {len(names)} files such as {names[0]} some have few whole values, as label maps have; only {MOST_PEEKS} "
                "were looked into: set data.pattern to what the images are called"
            )
    return judged, doubts


def _groups(items: Mapping[str, Item], looks: Mapping[str, Look]) -> list[list[str]]:
    images = [name for name, item in items.items() if item.kind is Kind.IMAGE and name in looks]
    beginnings = {name: _beginning(name) for name in images}
    tell = len(set(beginnings.values())) <= MOST_BEGINNINGS
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name in images:
        item = items[name]
        beginning = beginnings[name] if tell else ""
        groups[item.layout, item.channel, beginning, looks[name].dtype.str].append(name)
    return list(groups.values())


def _label_maps(names: list[str], looks: Mapping[str, Look]) -> list[str]:
    """Those of a group's files that are label maps."""
    told = {names[n]: few_whole_values(looks[names[n]]) for n in {0, len(names) // 2, len(names) - 1}}
    others = [name for name in names if name not in told]
    if set(told.values()) == {None}:
        told |= {name: few_whole_values(looks[name]) for name in others[:MORE_PEEKS]}
    answers = {answer for answer in told.values() if answer is not None}
    if len(answers) < 2:
        return names if answers == {True} else []
    told |= {name: few_whole_values(looks[name]) for name in names[:MOST_PEEKS] if name not in told}
    return [name for name in names if told.get(name)]


def _beginning(name: str) -> str:
    """A file's name up to its first digit."""
    return re.split(r"\d", SUFFIX.sub("", PurePosixPath(name).name), maxsplit=1)[0].lower()


def _shape(look: Look) -> tuple[int, ...]:
    """All lengths but trailing ones beyond the third; of .npy leading ones as well."""
    shape = tuple(look.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    while len(shape) > 3 and shape[0] == 1 and look.voxels.suffix.lower() == ".npy":
        shape = shape[1:]
    return shape
