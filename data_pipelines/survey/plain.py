"""Reads folders that people made: a folder a subject, flat files with visits, a folder for each contrast.

A file's path is taken apart into words. Those that name a person, and those that say a visit, make its case; a contrast ("t1",
"flair") makes its channel; so does what else distinguishes the files of a subject's folder ("image", "dixon_in"), if most
subjects have a file of that name. Cases are told apart by their paths, so that nothing is lost where a subject is guessed wrong.
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from data_pipelines.subjects import KNOWN, SUFFIX, divided, person_of
from data_pipelines.survey import words
from data_pipelines.survey.found import UNNAMED, Item, Kind
from data_pipelines.survey.visits import CONTRAST, VISIT, numbers_visits, split_visit

NAME = "plain folders"
FEW_CHANNELS = 8  # names with a number in them are channels, not scans, if they are no more than these
SHARE = 0.2  # of the subjects, which must have a file of a name that is a channel
SHARE_NUMBERED = 0.8  # likewise of a name with a number in it
BEGINNING = re.compile(r"([^\d]+?)[-_. ]+([^-_. ]*\d.*)")
# Words that tell no image from another.
GENERAL = (
    "image",
    "images",
    "img",
    "imgs",
    "scan",
    "scans",
    "volume",
    "volumes",
    "anat",
    "nii",
    "nifti",
    "niftis",
    "raw",
)


@dataclasses.dataclass(frozen=True)
class Words:
    """Holds what the words of a path are.

    Attributes:
      subject: whose it is.
      folders: that are part of the case's name.
      above: what folders say of the channel: the contrast.
      person: what of the file's own name names the person or the scan.
      unknown: whether that may be a channel as well: the person is named by a folder.
      visits: of folders and the file.
      visit: of the file alone, as in its name.
      rest: other words of the file's name.
    """

    subject: str
    folders: tuple[str, ...]
    above: tuple[str, ...]
    person: str
    unknown: bool
    visits: tuple[str, ...]
    visit: str
    rest: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Usage:
    """Tells the ways in which one collection of files is named.

    Attributes:
      t_is_visit: t0 and t1 are visits.
      endings: words that part the files of a person, behind its name.
      beginnings: words that part them, before its name.
      firsts: persons, in lower case, with a file 0000, the first channel of nnU-Net.
    """

    t_is_visit: bool
    endings: set[str]
    beginnings: set[str]
    firsts: set[str]


def items(root: Path, names: Sequence[str]) -> dict[str, Item]:
    """All files, one way or another.

    Args:
      root: whose name is the subject of files that name none: it is then one subject's folder.
      names: of files, below the root.
    """
    usage = Usage(
        t_is_visit=numbers_visits(word for name in names for word in divided(_stem(name))[1]),
        endings=_endings(names),
        beginnings=_beginnings(names),
        firsts={
            person.lower() for name in names for person, others in [divided(_stem(name))] if others[:1] == ("0000",)
        },
    )
    taken_apart = {name: _words(root, name, usage) for name in names}
    channels = _channels_by_recurrence(taken_apart.values())
    return {name: _item(name, parts, channels) for name, parts in taken_apart.items()}


def _endings(names: Sequence[str]) -> set[str]:
    """The words that end the names of persons, in lower case, and part files of one: "hbv" of p01_hbv beside p01_t2w.

    Most persons whose name they end have another file, which they do not end: of them a word is part of the name.
    """
    endings_of: dict[str, set[str]] = defaultdict(set)
    for name in names:
        base, ending = _without_ending(divided(_stem(name))[0])
        endings_of[base.lower()].add(ending.lower())
    return _most_beside_others(endings_of)


def _beginnings(names: Sequence[str]) -> set[str]:
    """The words that begin the names of images, in lower case: "volume" of volume-7 beside segmentation-7, a label map."""
    beginnings_of: dict[str, set[str]] = defaultdict(set)
    for name in names:
        person = divided(_stem(name))[0]
        if words.no_image((), words.split(_stem(name))):
            beginnings_of[person.lower()].add("")
        elif match := BEGINNING.fullmatch(person):
            beginnings_of[match[2].lower()].add(match[1].lower())
    return _most_beside_others({base: found for base, found in beginnings_of.items() if "" in found})


def _most_beside_others(found: Mapping[str, set[str]]) -> set[str]:
    """The words of which at least half of the persons that have them have another, or a file without."""
    having: dict[str, list[bool]] = defaultdict(list)
    for beside in found.values():
        for word in beside - {""}:
            having[word].append(len(beside) > 1)
    return {word for word, others in having.items() if 2 * sum(others) >= len(others)}


def _without_ending(person: str) -> tuple[str, str]:
    """A name with a number in it, and the words without one that follow the last such word, "" where there are none."""
    match = re.fullmatch(r"(.*\d[^-_. ]*)[-_. ]+([^\d]+)", person)
    return (match[1], match[2]) if match else (person, "")


def _words(root: Path, name: str, usage: Usage) -> Words:
    path = PurePosixPath(name)
    folders, above, visits = [], [], []
    people: set[tuple[str, ...]] = set()
    for folder in path.parts[:-1]:
        person, others = divided(folder)
        visit, rest = split_visit(others, t_is_visit=False)
        people |= {_folded(known.group(1)) for known in KNOWN.finditer(folder)} | (
            {_folded(person)} if person else set()
        )
        if visit:
            visits.append(visit)
        contrast = [word for word in rest if CONTRAST.fullmatch(word)]
        if person and contrast and not visit:  # IXI-T1
            folders.append(person)
            above += contrast
        elif person or visit:
            folders.append(folder)
        elif contrast:
            above += contrast
        elif folder.lower() not in GENERAL and not words.no_image((folder,), ()):
            folders.append(folder)
    stem = _stem(name)
    if known := KNOWN.search(stem):
        person, others = known.group(1), words.split(stem[: known.start(1)] + " " + stem[known.end(1) :])
    else:
        person, others = _person(stem, usage)
    subject = person_of(name) or root.resolve().name
    if subject == divided(stem)[0]:
        subject = person
    visit, rest = split_visit(others, usage.t_is_visit)
    if people and not known and VISIT.fullmatch(person):  # patient1/scan2
        person, visit = "", "_".join([person, visit]).strip("_")
    if _folded(person) in people:  # p01/p01_t1
        person = ""
    return Words(
        subject=subject,
        folders=tuple(folders),
        above=tuple(above),
        person=person,
        unknown=bool(people and person and not known),
        visits=(*visits, *((visit,) if visit else ())),
        visit=visit,
        rest=rest,
    )


def _person(stem: str, usage: Usage) -> tuple[str, tuple[str, ...]]:
    """Returns what of a file's name names a person, and its other words, by the ways of these files."""
    person, others = divided(stem)
    numbered = re.match(rf"{re.escape(person)}[-_. ]+000\d(?![^-_. ])", stem)
    if numbered and person.lower() not in usage.firsts:  # a person's number: those of channels begin with 0000
        person, others = numbered.group(), others[1:]
    base, ending = _without_ending(person)
    if ending.lower() in usage.endings:
        person, others = base, (*words.split(ending), *others)
    match = BEGINNING.fullmatch(person)
    if match and match[1].lower() in usage.beginnings:
        person, others = match[2], (*words.split(match[1]), *others)
    return person, others


def _channels_by_recurrence(found: Sequence[Words]) -> set[str]:
    """The names of files, in lower case, that so many subjects have a file of that they are no scan's own name."""
    subjects_of: dict[str, set[str]] = defaultdict(set)
    for parts in found:
        if parts.unknown:
            subjects_of[parts.person.lower()].add(parts.subject)
    subjects = len({parts.subject for parts in found})
    share = {name: len(having) / subjects for name, having in subjects_of.items() if len(having) > 1}
    numbered = {name for name in subjects_of if any(character.isdigit() for character in name)}
    few = len(numbered) <= min(FEW_CHANNELS, subjects / 2)
    return {
        name for name, part in share.items() if (few and part >= SHARE_NUMBERED if name in numbered else part >= SHARE)
    }


def _item(name: str, parts: Words, channels: set[str]) -> Item:
    stem = _stem(name)
    said = words.no_image(PurePosixPath(name).parts[:-1], words.split(stem))
    plainly = said is not None and not any(character.isdigit() for character in parts.person)  # lesion_mask
    is_channel = parts.unknown and (parts.person.lower() in channels or plainly)
    own = set(parts.rest) | (set(words.split(parts.person)) if is_channel else set())
    in_order = [word for word in words.split(stem) if word in own and word.lower() not in GENERAL]
    if parts.above and not any(CONTRAST.fullmatch(word) for word in in_order):
        in_order = [*parts.above, *in_order]
    of_case = [] if is_channel or not parts.person else [parts.person]
    of_case += [parts.visit] if parts.visit else []
    case = "/".join([*parts.folders, "_".join(of_case)]).strip("/")
    item = Item(
        name,
        NAME,
        case=case or parts.subject,
        subject=parts.subject,
        visit="_".join(parts.visits),
        channel="_".join(in_order) or UNNAMED,
        preference=(len(own), name),
    )
    return item.left_out(said[1], said[0]) if said else item


def tissue_maps(found: dict[str, Item]) -> dict[str, Item]:
    """The same items, those as no images that SPM or CAT made of another file in the folder: c1NAME beside NAME."""
    judged = dict(found)
    stems = {(str(PurePosixPath(name).parent), _stem(name).lower()) for name in found}
    for name, item in found.items():
        begin = words.TISSUE.match(_stem(name))
        folder = str(PurePosixPath(name).parent)
        if begin and item.kind is Kind.IMAGE and (folder, _stem(name)[begin.end() :].lower()) in stems:
            judged[name] = item.left_out("tissue map: by its name")
    return judged


def spelled_alike(found: dict[str, Item]) -> dict[str, Item]:
    """The same items, each channel spelled as most files spell it."""
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for item in found.values():
        spellings[item.channel.casefold()][item.channel] += 1
    usual = {key: min(counts, key=lambda c: (-counts[c], c)) for key, counts in spellings.items()}
    return {name: dataclasses.replace(item, channel=usual[item.channel.casefold()]) for name, item in found.items()}


def _stem(name: str) -> str:
    return SUFFIX.sub("", PurePosixPath(name).name)


def _folded(name: str) -> tuple[str, ...]:
    return tuple(word.casefold() for word in words.split(name))
