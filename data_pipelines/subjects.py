"""Tells whose scan a file is from its path: as people and collections name folders and files.

The parts of a path that name no person are passed over: a contrast (T1, FLAIR), a visit (ses-2, followup), what is left of
processing (mask, _0000), a side, a date, a folder such as imagesTr or derivatives. What remains of the first folder, else
of the file's name, is the subject. Where it is in doubt two scans are of one subject rather than of two, because a subject
on both sides of the split spoils every measure of generalisation, and a subject too few costs little.
"""

import dataclasses
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from data_pipelines.cases import Case
from data_pipelines.errors import DataError

LARGE_SHARE = 0.2  # of the scans, above which one subject is remarkable
HANDFUL = 5  # scans, up to which it is not

# How large collections name a person, wherever in a path: BIDS, ADNI, UCSF and UPenn, BraTS (without the visit), LIDC, TCGA,
# OASIS, Duke.
KNOWN = re.compile(
    r"(?:^|(?<=[/_ ]))(sub-[A-Za-z0-9]+|\d{3}_S_\d{4,5}|UCSF-PDGM-\d+|UPENN-GBM-\d+|BraTS(?:-[A-Za-z]+)+-\d+"
    r"|BraTS1[789]_\w+?_\w+?(?=_1(?![^\W_]))|BraTS\d{2,4}_(?:[A-Za-z]+_)?\d+(?![^\W_])|LIDC-IDRI-\d{4}|TCGA-\w\w-\w{4}|OAS[12]_\d{4}|OAS3\d{4}|Breast_MRI_\d+)",
    re.IGNORECASE,
)
# Words, with a number behind them or not, that name no person wherever they stand.
NO_PERSON = re.compile(
    r"(t1|t2|pd)(w|c|ce|gd|n|f|s|star|map|spc|post|pre|wi|weighted)?|flair|swi|dwi|adc|dti|dce|asl|cbf|bold|fmri|mprage|mpr"
    r"|mp2rage|f?spgr|gre|stir|mra?|mri|cta?|cbct|pet|fdg|angio"
    r"|masks?\d?|segs?\d?|segmentations?|label(s|map)?|brain(mask)?|bet|n4|norm(alized)?|defaced|skullstripped|stripped|preproc"
    r"|anat|func|perf|ses|session\d*|visit\d*|timepoint\d*|tp\d+|baseline|follow|followup\d*|fu\d*[dmy]?|images?(tr|ts|va)?"
    r"|labels?(tr|ts|va)|train(ing)?|val(id|idation)?|test(ing)?|data(set)?|nii|nifti|niftis|raw(data)?|sourcedata"
    r"|derivatives|scans|volumes|patients|subjects|controls|cases|axial|coronal|sagittal|left|right",
    re.IGNORECASE,
)
# Such of them that a number behind belongs to: visit_2, batch_1.
NUMBERED = re.compile(
    r"ses|session|visit|timepoint|tp|followup|fu|time|month|week|year|day|run|part|fold|batch|group|site|cent(er|re)",
    re.IGNORECASE,
)
# Words that name none behind a name with a number in it, and might be one before.
AFTERWARDS = re.compile(
    NO_PERSON.pattern
    + r"|[tvmdwyr]\d{1,4}[dmy]?|mr\d+|ct\d+|mprage\d+|mpr\d+|scan\d{0,2}|ses\d+|run\d*|rep\d*|repeat\d*|rescan"
    r"|retest|time\d*|bl|pre|post|preop|postop|day\d*|week\d*|month\d*|year\d*|acq|desc|space|echo\d*|rec|dir|task|rest"
    r"|lh|rh|l|r|ax|cor|sag|tra|\d(\.5)?t|date|orig|reg|registered|dyn|000\d",
    re.IGNORECASE,
)
# Words that number a scan of a person whose name has no number in it, anna_t0, but begin no name.
VISIT_OF_NAMED = re.compile(r"[tv]\d{1,2}|scan\d{1,2}|bl|preop|postop", re.IGNORECASE)
DATE = re.compile(r"(?<=[-_. ])(19|20)\d\d[-_.]?(0[1-9]|1[0-2])[-_.]?(0[1-9]|[12]\d|3[01])(?![^-_. ])")
SUFFIX = re.compile(r"(\.nii(\.gz)?|\.npy|\.(hdr|img)(\.gz)?|\.mg[hz]|\.mgh\.gz)$", re.IGNORECASE)


def subject_of(name: str) -> str:
    """The subject of a scan.

    Args:
      name: its path below the root of the dataset, with slashes.
    """
    return person_of(name) or str(PurePosixPath(SUFFIX.sub("", name)))


def person_of(name: str) -> str:
    """The subject that a path below the root names; empty where no part of it names a person."""
    if known := KNOWN.search(name):
        return known.group(1)
    parts = [divided(part) for part in PurePosixPath(SUFFIX.sub("", name)).parts]
    people = [(person, others) for person, others in parts if person]
    if len(people) > 1:
        (collection, others), (person, _) = people[:2]
        # The folder IXI-T1 of IXI012-Guys-0827-T1 names a collection.
        numbered = re.match(rf"{re.escape(collection)}\d", person, re.IGNORECASE)
        if numbered and not re.search(r"\d", collection) and any(NO_PERSON.fullmatch(word) for word in others):
            return person
    return people[0][0] if people else ""


def one_spelling(subjects: Iterable[str]) -> dict[str, str]:
    """The name that stands for each of these: those that differ in case or in how accents are encoded are one person's.

    It is the first of them in the order of their characters, so a name without such a twin stays as it is.
    """
    names = sorted(set(subjects))
    spelled: dict[str, str] = {}
    for subject in names:
        spelled.setdefault(_without_spelling(subject), unicodedata.normalize("NFC", subject))
    return {subject: spelled[_without_spelling(subject)] for subject in names}


def by_pattern(name: str, pattern: re.Pattern[str]) -> str:
    """The first group of what a pattern finds in the path below the root.

    Raises:
      DataError: it finds nothing there.
    """
    found = pattern.search(name)
    if not found or not found.group(1):
        raise DataError(
            f"data.subject_pattern={pattern.pattern}: finds no subject in {name}; correct it, or move that file away"
        )
    return found.group(1)


def compiled(pattern: str) -> re.Pattern[str]:
    """data.subject_pattern, ready for use.

    Raises:
      DataError: it is no regular expression, or has no group.
    """
    try:
        found = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise DataError(f"data.subject_pattern={pattern}: no regular expression ({error}); correct it") from None
    if not found.groups:
        raise DataError(f"data.subject_pattern={pattern}: has no group; put the subject's part in parentheses")
    return found


def regrouped(scans: Iterable[Case], paths: Iterable[str], pattern: str) -> tuple[Case, ...]:
    """The scans with the subjects that data.subject_pattern finds in their paths below the root."""
    expression = compiled(pattern)
    return tuple(
        dataclasses.replace(scan, subject=by_pattern(path, expression)) for scan, path in zip(scans, paths, strict=True)
    )


def tell(place: str, names_and_subjects: Sequence[tuple[str, str]]) -> None:
    """Says on stderr how many scans of how many subjects there are, and what looks as if it were not so.

    Args:
      place: where they were found, such as "data.root=SCANS".
      names_and_subjects: of each scan.
    """
    name, subject = names_and_subjects[0]
    n, s = len(names_and_subjects), len({subject for _, subject in names_and_subjects})
    print(f"{place}: {n} scans of {s} subjects, such as {name} -> {subject}", file=sys.stderr)
    for line in doubts(names_and_subjects):
        print(f"{place}: {line}", file=sys.stderr)


def doubts(names_and_subjects: Sequence[tuple[str, str]]) -> list[str]:
    """Tells where scans look as if they were not of the subjects they are taken to be of, a line each.

    Args:
      names_and_subjects: of each scan.
    """
    counts = Counter(subject for _, subject in names_and_subjects)
    n = len(names_and_subjects)
    advice = "if that is not so, set data.subject_pattern=REGEX, whose first group is the subject"
    found = []
    largest, most = counts.most_common(1)[0]
    if most > HANDFUL and most > LARGE_SHARE * n:
        found.append(f"{most} of the {n} scans are of one subject, {largest}; {advice}")
    if twice := twofold(names_and_subjects):
        found.append(f"{twice[0]} and {twice[1]} are taken for scans of two subjects; {advice}")
    return found


def twofold(names_and_subjects: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    """Two scans that look like one person's and are not of one subject; None where there are none.

    They do where a file's name, less what names no person, occurs under several subjects while there are more such names than
    subjects (group folders), or where subjects are another's name and a number of one digit (repeats: p7_1, p7_2).
    """
    by_stem: dict[str, dict[str, str]] = defaultdict(dict)
    for name, subject in names_and_subjects:
        person = person_in(SUFFIX.sub("", PurePosixPath(name).name))
        if person and any(character.isdigit() for character in person):
            by_stem[person].setdefault(subject, name)
    first = {subject: name for name, subject in reversed(names_and_subjects)}
    if len(by_stem) > len(first):
        for found in by_stem.values():
            if len(found) > 1:
                one, other = list(found.values())[:2]
                return one, other
    repeats: dict[str, str] = {}
    for subject, name in sorted(first.items()):
        match = re.fullmatch(r"(.*\d.*)[-_ .]\d", subject)
        if match and (other := repeats.setdefault(match.group(1), name)) != name:
            return other, name
    return None


def person_in(part: str) -> str:
    """Returns what of a folder's or a file's name is left to name a person; empty if nothing is."""
    return divided(part)[0]


def divided(part: str) -> tuple[str, tuple[str, ...]]:
    """Divides a folder's or a file's name, without suffix, into what names a person and the other words in it.

    Returns:
      the person, empty if there is none, and the other words in their order, a date as one.
    """
    dates = [found.group() for found in DATE.finditer(part)]
    pieces = re.split(r"([-_. ]+)", DATE.sub("date", part))  # words, with what parts them between
    words = pieces[::2]
    begin = 0
    while begin < len(words) and (NO_PERSON.fullmatch(words[begin]) or NUMBERED.fullmatch(words[begin])):
        numbered = NUMBERED.fullmatch(words[begin]) and begin + 1 < len(words) and words[begin + 1].isdecimal()
        begin += 2 if numbered else 1
    kept = ""
    others = words[:begin]
    for n in range(begin, len(words)):
        with_number = any(character.isdigit() for character in kept)
        if with_number and AFTERWARDS.fullmatch(words[n]):
            others += words[n:]  # what comes behind numbers the scan
            break
        if not with_number and (NO_PERSON.fullmatch(words[n]) or (kept and VISIT_OF_NAMED.fullmatch(words[n]))):
            others.append(words[n])
            continue
        kept += (pieces[2 * n - 1] if kept else "") + words[n]
    return kept, tuple(dates.pop(0) if word == "date" and dates else word for word in others if word)


def _without_spelling(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
