"""Looks through a folder: what layout, which files are images of whom, which are none and why; no volume is decoded."""

import dataclasses
import fnmatch
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from data_pipelines import subjects
from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats import read as volume_files
from data_pipelines.formats.headers import Look
from data_pipelines.formats.sniff import NotFetchedError
from data_pipelines.survey import adni, bids, brats, choose, kinds, nnunet, oasis, plain, tree
from data_pipelines.survey.choose import Chosen
from data_pipelines.survey.found import Item, Kind, Row, Survey
from data_pipelines.survey.telling import summary

THREADS = 16
# Tried in turn: a file is of the first layout that knows its name, and of the last otherwise.
LAYOUTS: tuple[tuple[str, Callable[[Path, Sequence[str]], dict[str, Item]]], ...] = (
    (nnunet.NAME, nnunet.items),
    (bids.NAME, bids.items),
    (brats.NAME, brats.items),
    (adni.NAME, adni.items),
    (oasis.NAME, oasis.items),
    (plain.NAME, plain.items),
)
NO_DICOM = (
    ".json", ".tsv", ".csv", ".txt", ".md", ".bval", ".bvec", ".xml", ".html", ".pdf", ".png", ".jpg", ".jpeg", ".gz", ".zip",
    ".tar", ".mat", ".py", ".m", ".yaml", ".yml", ".log", ".h5", ".npz", ".pkl", ".xlsx", ".img", ".gii", ".annot",
)  # fmt: skip


def survey(
    root: Path,
    channels: Sequence[str] = (),
    label_map: bool = False,
    pattern: str | None = None,
    subject_pattern: str | None = None,
) -> Survey:
    """Finds the cases under a folder, and says of every other file that holds a volume why it is none.

    Args:
      root: the folder; nothing in it is written to.
      channels: the images that each case is to have, in order. None are needed where there is but one.
      label_map: whether each case is to have a label map; those without are left out.
      pattern: a glob; what it matches is taken for images, whatever it looks like, and nothing else is. Against the path below
        the root if there is a slash in it, else against the file's name; "*" stands for slashes too. Without `channels` each file
        that it matches is then a case of its own.
      subject_pattern: a regular expression that finds the subject, its first group, in the path below the root.

    Raises:
      DataError: no such folder, nothing in it that can be used, several channels and none asked for, no case with what was asked
        for, or no such pattern.
    """
    found = tree.list_tree(root)
    place = f"data.root={root}"
    names, dicom_files, rows = _volumes(root, found)
    looks, unreadable = _looks(root, names)
    rows += [Row(name, status="unreadable", reason=reason, files=(name,)) for name, reason in unreadable.items()]
    items, notes = _judged(root, names, looks, pattern)
    notes += [f"{name}: {reason}; not gone through" for name, reason in list(found.again.items())[:3]]
    if subject_pattern:
        subjects.compiled(subject_pattern)
    readable = [item for name, item in items.items() if name in looks]
    counts = choose.channels_of(readable)
    alone = pattern is not None and not channels
    chosen, others = choose.cases(
        place, choose.each_alone(readable) if alone else readable, channels, label_map, alone=alone
    )
    if label_map:
        notes += _doubtful_label_maps(readable)
    used = [one for one in chosen if not one.lacks]
    if not used and not dicom_files:
        rows += [_row_of(items[name], looks.get(name)) for name in items if name not in unreadable]
        raise DataError(_nothing(place, found, rows))
    whose = _subjects(used, subject_pattern)
    cases = tuple(_case(root, one, whose[one.name]) for one in used)
    rows += _rows(chosen, others, whose, items, looks)
    return Survey(
        root=root,
        layout=_layout(used, items, bool(dicom_files)),
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        rows=tuple(sorted(rows, key=lambda row: (row.name, row.files))),
        channels=counts,
        notes=tuple(notes),
        notices=tuple(
            (item.name, looks[item.name].notices)
            for one in used
            for item in one.images.values()
            if looks[item.name].notices
        ),
        dicom_files=tuple(dicom_files),
    )


def _volumes(root: Path, found: tree.Tree) -> tuple[list[str], list[Path], list[Row]]:
    """The names of files that may hold a volume, the DICOM files, and rows of what cannot be looked into."""
    names = [name for name in found.files if volume_files.is_image(root / name)]
    rows = []
    others = []
    for name in sorted({*found.files} - {*names}):
        if volume_files.advice(root / name):
            rows.append(Row(name, files=(name,), reason="another format: convert it to NIfTI"))
        elif not name.lower().endswith(NO_DICOM):
            others.append(root / name)
    with ThreadPoolExecutor(THREADS) as pool:
        dicom_files = [
            path for path, is_dicom in zip(others, pool.map(begins_as_dicom, others), strict=True) if is_dicom
        ]
    absent = {name: why for name, why in found.absent.items() if _may_hold_scans(root / name)}
    rows += [Row(name, files=(name,), status="unreadable", reason=why) for name, why in (absent | found.closed).items()]
    return names, dicom_files, rows


def begins_as_dicom(path: Path) -> bool:
    """Whether a file has the mark DICM at byte 128."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _may_hold_scans(path: Path) -> bool:
    """Whether a name, of a link that leads nowhere, is that of a volume or a folder."""
    return volume_files.is_image(path) or not path.suffix or path.suffix.lower() in (".dcm", ".ima")


def _looks(root: Path, names: Sequence[str]) -> tuple[dict[str, Look], dict[str, str]]:
    """The headers of files, and why others could not be read."""

    def look(name: str) -> Look | str:
        path = root / name
        try:
            return volume_files.look(path)
        except DataError as error:
            reason = str(error).removeprefix(f"{path}: ")
            if isinstance(error, NotFetchedError):
                return f"{tree.NOT_FETCHED}: {reason.removeprefix('its content is not here: ')}"
            return reason

    with ThreadPoolExecutor(THREADS) as pool:
        answers = dict(zip(names, pool.map(look, names), strict=True))
    looks = {name: answer for name, answer in answers.items() if not isinstance(answer, str)}
    return looks, {name: answer for name, answer in answers.items() if isinstance(answer, str)}


def _judged(
    root: Path, names: Sequence[str], looks: Mapping[str, Look], pattern: str | None
) -> tuple[dict[str, Item], list[str]]:
    """Says for what each file is taken, and what is in doubt."""
    items: dict[str, Item] = {}
    left = list(names)
    for _, read in LAYOUTS:
        known = read(root, left)
        items |= known
        left = [name for name in left if name not in known]
    items = plain.tissue_maps(plain.spelled_alike(items))
    if pattern is not None:
        return _once(root, _by_pattern(items, looks, pattern)), []
    items = kinds.by_headers(items, looks)
    for name, item in items.items():
        if item.layout == nnunet.NAME and item.reason.startswith("4D") and (said := nnunet.modalities(root, name)):
            items[name] = item.left_out(f"{item.reason} ({said}, says dataset.json)")
    items, doubts = kinds.by_values(items, looks)
    return _once(root, items), doubts


def _by_pattern(items: Mapping[str, Item], looks: Mapping[str, Look], pattern: str) -> dict[str, Item]:
    """The items, those that the pattern matches as images, unless they hold no volume, and no other."""
    judged = {}
    for name, item in items.items():
        against = name if "/" in pattern else PurePosixPath(name).name
        if not fnmatch.fnmatchcase(against, pattern):
            judged[name] = item.left_out("does not match data.pattern") if item.kind is Kind.IMAGE else item
        elif name in looks and (why := kinds.unreadable_as_volume(looks[name])):
            judged[name] = item.left_out(why)
        else:
            judged[name] = dataclasses.replace(item, kind=Kind.IMAGE, reason="")
    if items and not any(item.kind is Kind.IMAGE for item in judged.values()):
        raise DataError(
            f"data.pattern={pattern}: matches none of {len(items)} files, such as {next(iter(items))}, that holds a volume; "
            'write it as in "*/t1*.nii.gz"'
        )
    return judged


def _once(root: Path, items: Mapping[str, Item]) -> dict[str, Item]:
    """The items, those as no images that are links to files which are here under another name."""
    judged = dict(items)
    first: dict[tuple[int, int], str] = {}
    images = [name for name, item in items.items() if item.kind is Kind.IMAGE]
    for name in sorted(images, key=lambda name: (os.path.islink(root / name), name)):
        try:
            status = os.stat(root / name)
        except OSError:
            continue
        other = first.setdefault((status.st_dev, status.st_ino), name)
        if other != name:
            judged[name] = items[name].left_out(f"the same file as another: {other}")
    return judged


def _doubtful_label_maps(items: Sequence[Item]) -> list[str]:
    several = choose.several_label_maps([item for item in items if item.layout != oasis.NAME])
    if not several:
        return []
    (_, first), *_ = several.items()
    names = ", ".join(item.name for item in first[:3])
    return [f"{len(several)} cases have several label maps, such as {names}: the first of these is used"]


def _subjects(used: Sequence[Chosen], subject_pattern: str | None) -> dict[str, str]:
    """The subject of each case, by the case's name."""
    firsts = {one.name: next(iter(one.images.values())) for one in used}
    if subject_pattern:
        compiled = subjects.compiled(subject_pattern)
        return {name: subjects.by_pattern(item.name, compiled) for name, item in firsts.items()}
    spelled = subjects.one_spelling(item.subject for item in firsts.values())
    return {name: spelled[item.subject] for name, item in firsts.items()}


def _case(root: Path, one: Chosen, subject: str) -> Case:
    return Case(
        name=one.name,
        subject=subject,
        visit=next(iter(one.images.values())).visit,
        images={channel: root / item.name for channel, item in one.images.items()},
        label_map=root / one.label_map.name if one.label_map else None,
    )


def _rows(
    chosen: Sequence[Chosen],
    others: Mapping[str, str],
    whose: Mapping[str, str],
    items: Mapping[str, Item],
    looks: Mapping[str, Look],
) -> list[Row]:
    """A row for each case, and for each file that is of none."""
    rows = []
    told = set()
    used_maps = {}
    for one in chosen:
        files = tuple(item.name for item in one.images.values())
        maps = (one.label_map.name,) if one.label_map else ()
        told |= {*files, *maps}
        if one.label_map:
            used_maps[one.label_map.layout, one.label_map.case] = one.label_map.name
        subject = whose.get(one.name, next(iter(one.images.values())).subject)
        row = Row(
            one.name, subject, files=(*files, *maps), status="left out" if one.lacks else "used", reason=one.lacks
        )
        rows.append(_with_header(row, looks[files[0]]))
    for name, item in items.items():
        if name in looks and name not in told:
            reason = others.get(name, item.reason)
            if item.kind is Kind.LABEL_MAP and (other := used_maps.get((item.layout, item.case))):
                reason = f"another label map of the case is used: {other}"
            rows.append(_row_of(dataclasses.replace(item, reason=reason), looks[name]))
    return rows


def _row_of(item: Item, look: Look | None) -> Row:
    row = Row(item.name, item.subject, files=(item.name,), reason=item.reason)
    return _with_header(row, look) if look else row


def _with_header(row: Row, look: Look) -> Row:
    spacing = tuple(float(edge) for edge in look.spacing)
    return dataclasses.replace(row, shape=tuple(look.shape), spacing=spacing, orientation=look.orientation)


def _layout(used: Sequence[Chosen], items: Mapping[str, Item], dicom: bool) -> str:
    """The layouts of the cases in words, the most frequent first."""
    counts = Counter(next(iter(one.images.values())).layout for one in used)
    named = [name for name, _ in counts.most_common()] or sorted({item.layout for item in items.values()})
    return ", ".join([*named, *(["DICOM"] if dicom else [])])


def _nothing(place: str, found: tree.Tree, rows: Sequence[Row]) -> str:
    """Why nothing can be used, and what to do."""
    if not found.files and not rows:
        return f"{place}: the folder is empty; give the folder that holds the scans"
    if not rows:
        suffixes = Counter(
            "".join(PurePosixPath(name).suffixes[-2:]) or PurePosixPath(name).name for name in found.files
        )
        kinds_found = ", ".join(suffix for suffix, _ in suffixes.most_common(5))
        return (
            f"{place}: {len(found.files)} files ({kinds_found}), none of a format that is read; convert them to NIfTI"
        )
    advice = "set data.pattern to what the images are called, or give another folder"
    reasons = [row.reason for row in rows]
    if any(reason.startswith(tree.NOT_FETCHED) for reason in reasons):
        advice = next(reason for reason in reasons if reason.startswith(tree.NOT_FETCHED)).partition(": ")[2]
    elif any(r.startswith("4D") for r in reasons) and all(r.startswith(("4D", "label map")) for r in reasons):
        advice = "split them into files of one volume (fslsplit; nnUNetv2_convert_MSD_dataset for the Decathlon's)"
    elif all(reason.startswith("another format") for reason in reasons):
        advice = "convert them to NIfTI"
    return f"{place}: {len(rows)} files, none can be trained on: {summary(rows)}; {advice}"
