"""Finds the DICOM series under a folder by the headers of its files, and says of each whether it is a volume."""

import dataclasses
import itertools
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data_pipelines.errors import one_line
from data_pipelines.formats import dicom_pixels
from data_pipelines.formats.dicom_headers import VOLUMES, Header, NotReadable, Numbers, Slice, read_header
from data_pipelines.formats.dicom_stack import Irregular, Stack, lacks, places, same_plane, stack

THREADS = 16
NO_PIXELS = "an image without pixels: cut short?"
FEWEST = 4  # slices of a volume, as dicom2nifti has it; localisers have one to three a direction
MAIN_SHARE = 2 / 3  # of a series' slices that lie alike; below, no orientation is that of the series
RADIOGRAPHS = ("CR", "DX", "MG", "RF", "XA", "IO", "PX", "RG")
NO_IMAGES = {
    "SR": "structured report", "KO": "structured report", "PR": "presentation state", "SEG": "segmentation",
    "RTSTRUCT": "radiotherapy contours", "RTPLAN": "radiotherapy plan", "RTDOSE": "radiotherapy dose",
    "US": "ultrasound", "SC": "secondary capture", "OT": "secondary capture", "DOC": "document",
}  # fmt: skip
LOCALISERS = {"LOCALIZER", "SCOUT", "SCOUTVIEW", "TOPOGRAM"}
PROJECTIONS = {"PROJECTION IMAGE", "MIP", "MINIP", "MAXIMUM", "MINIMUM", "MIN_IP", "MAX_IP"}
SCOUT_WORDS = re.compile(
    r"(?<![a-z])(locali[sz]ers?|loc|scouts?|topograms?|surview|scanograms?|scano|survey)(?![a-z])", re.I
)
MIP_WORDS = re.compile(r"(?<![a-z])(mip|minip)s?(?![a-z])", re.I)


@dataclasses.dataclass(frozen=True)
class Series:
    """Holds what a few headers say of one series, or of those slices of it that lie alike.

    Attributes:
      uid: SeriesInstanceUID, or empty.
      files: sorted by the positions of their slices; duplicates dropped.
      modality: "CT", "MR", ..., or empty.
      patient: PatientID, or empty.
      study: StudyInstanceUID, or empty.
      date: of the study, YYYYMMDD, or empty.
      description: SeriesDescription, or empty.
      number: SeriesNumber, 0 if not said.
      image_type: values of ImageType, in capitals.
      rows, columns: pixels of a slice; 0 if it is no image.
      slices: how many there are, frames of multi-frame files counted; 0 if it is no image.
      spacing: mm between columns, rows and slices; None unless it is a regular stack.
      orientation: six numbers along rows and down columns, in LPS+; None unless it is a regular stack.
      status: "use" or "left out".
      reason: for the status, in plain words; empty for what nothing is to be said of.
      faulty: left out for a fault of the data (slices missing, a file cut short), not for what it is.
      derived: made from other images, says ImageType.
      tilted: the gantry was, so the slices lie askew above each other.
    """

    uid: str
    files: tuple[Path, ...]
    modality: str
    patient: str
    study: str
    date: str
    description: str
    number: int
    image_type: tuple[str, ...]
    rows: int
    columns: int
    slices: int
    spacing: tuple[float, float, float] | None
    orientation: Numbers | None
    status: str
    reason: str
    faulty: bool = False
    derived: bool = False
    tilted: bool = False

    @property
    def name(self) -> str:
        """The folder and what the series is called, for messages."""
        called = self.description or self.uid or self.files[0].name
        number = f"{self.number} " if self.number else ""
        return one_line(f"{self.files[0].parent}: series {number}{called}")


def find_series(root: Path, files: Sequence[Path] | None = None, fewest: int = FEWEST) -> tuple[Series, ...]:
    """Reads the headers of all DICOM files and groups them by patient, study and series.

    DICOM files are known by the mark at byte 128, whatever their names; without it, by the suffixes .dcm and .ima. Of a
    series those slices that have another orientation, size or pixel spacing than most, or no place, are set apart as a
    series of their own, left out. Slices whose pixels are bit by bit those of another one in the same place are dropped.

    Args:
      root: a folder, looked through to any depth, linked folders too.
      files: to look at instead of all under `root`.
      fewest: slices of a volume.

    Returns:
      In the order of patients, studies, numbers and files. What cannot be read is there as well, left out. Nothing is
      raised for what the files hold.
    """
    paths = sorted(_walk(root) if files is None else files)
    with ThreadPoolExecutor(THREADS) as pool:
        headers = list(pool.map(_header_or_reason, paths))
    groups: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    found = []
    for path, header in zip(paths, headers, strict=True):
        if isinstance(header, Header):
            groups[header.patient, header.study, header.uid or str(path.parent)].append(header)
        elif header is not None:
            found.append(_unreadable(path, header))
    for group in groups.values():
        found += _series_of(group, fewest)
    return tuple(sorted(found, key=lambda s: (s.patient, s.study, s.number, s.uid, s.status != "use", s.files)))


def _walk(root: Path) -> Iterable[Path]:
    """All files under a folder; a linked folder is followed, but each folder is gone through once."""
    seen = {os.path.realpath(root)}
    for folder, folders, names in os.walk(root, followlinks=True):
        kept = []
        for name in sorted(folders):
            real = os.path.realpath(os.path.join(folder, name))
            if real not in seen:
                seen.add(real)
                kept.append(name)
        folders[:] = kept
        yield from (path for name in names if (path := Path(folder, name)).is_file())


def _header_or_reason(path: Path) -> Header | str | None:
    try:
        return read_header(path)
    except (NotReadable, OSError) as error:
        return str(error)


def _unreadable(path: Path, reason: str) -> Series:
    return Series(
        "", (path,), "", "", "", "", path.name, 0, (), 0, 0, 0, None, None, "left out", f"not readable: {reason}", True
    )


def _series_of(headers: Sequence[Header], fewest: int) -> list[Series]:
    """A series, and what had to be set apart from it."""
    found = []
    kinds: dict[str | None, list[Header]] = defaultdict(list)
    for header in headers:
        kinds[_kind_of(header)].append(header)
    pictures = kinds.pop(None, [])
    for kind, others in kinds.items():
        entry = _left_out(others, list(_slices(others)), kind)
        found.append(dataclasses.replace(entry, faulty=kind == NO_PIXELS))
    nowhere, placed = _by_what_they_lack(_slices(pictures))
    clusters = _clusters(placed)
    count = len(placed)
    if clusters and len(clusters[0]) < MAIN_SHARE * count:
        orientations = f"slices of {len(clusters)} orientations or sizes, none of them that of most: a localiser?"
        found.append(_left_out(pictures, placed, orientations))
    elif clusters:
        found.append(_volume(pictures, clusters[0], fewest))
        for cluster in clusters[1:]:
            few = f"{len(cluster)} slice{'s' * (len(cluster) > 1)}"
            odd = f"{few} of another orientation, size or pixel spacing than the other {len(clusters[0])}: a localiser?"
            found.append(_left_out(pictures, cluster, odd))
    for reason, planes in nowhere.items():
        found.append(dataclasses.replace(_left_out(pictures, planes, reason), faulty=True))
    return found


def _slices(headers: Iterable[Header]) -> Iterable[Slice]:
    return itertools.chain.from_iterable(header.slices for header in headers)


def _by_what_they_lack(slices: Iterable[Slice]) -> tuple[dict[str, list[Slice]], list[Slice]]:
    nowhere: dict[str, list[Slice]] = defaultdict(list)
    placed = []
    for plane in slices:
        if (reason := lacks(plane)) is None:
            placed.append(plane)
        else:
            frames = "multi-frame image without a place for each frame: " if plane.frame else ""
            nowhere[frames + reason].append(plane)
    return nowhere, placed


def _clusters(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Slices that lie alike, the most numerous first."""
    clusters: list[list[Slice]] = []
    for plane in slices:
        for cluster in clusters:
            if same_plane(cluster[0], plane):
                cluster.append(plane)
                break
        else:
            clusters.append([plane])
    return sorted(clusters, key=len, reverse=True)


def _volume(headers: Sequence[Header], slices: Sequence[Slice], fewest: int) -> Series:
    """A series of slices that lie alike: to be used if they are one regular stack."""
    groups = places(slices)
    several = max(len(group) for group in groups)
    if several > 1 and (told := _different(slices, groups)):
        return _left_out(headers, slices, told)
    kept = [slices[group[0]] for group in groups]
    dropped = len(slices) - len(kept)
    if len(kept) < fewest:
        return _left_out(headers, kept, "1 slice only" if len(kept) == 1 else f"{len(kept)} slices only")
    try:
        stacked = stack(kept)
    except Irregular as error:
        return dataclasses.replace(_left_out(headers, kept, str(error)), faulty=True)
    reasons = []
    if dropped:
        reasons.append(f"{dropped} duplicate slice{'s' * (dropped > 1)} dropped")
    if stacked.tilted:
        reasons.append(f"tilted gantry, straightened from {stacked.drift:.1f} mm")
    made = _left_out(headers, kept, "; ".join(reasons))
    return dataclasses.replace(
        made,
        status="use",
        spacing=_spacing(kept[0], stacked),
        orientation=kept[0].orientation,
        tilted=stacked.tilted,
    )


def _different(slices: Sequence[Slice], groups: Sequence[Sequence[int]]) -> str | None:
    """Says what is wrong with slices that share a place; None if each is bit by bit the first one there."""
    counts = {len(group) for group in groups}
    for group in groups:
        if len(group) > 1 and not dicom_pixels.all_the_same([slices[n] for n in group]):
            if len(counts) == 1:
                return f"{counts.pop()} different images in each place (echoes, phases, b-values): a 4D series"
            return f"different images in one place, up to {max(counts)} of them"
    return None


def _spacing(plane: Slice, stacked: Stack) -> tuple[float, float, float]:
    return plane.spacing[1], plane.spacing[0], stacked.distance


def _left_out(headers: Sequence[Header], slices: Sequence[Slice], reason: str) -> Series:
    first = headers[0]
    if slices:
        first = next(header for header in headers if header.path == slices[0].path)
    paths = (plane.path for plane in slices) if slices else (header.path for header in headers)
    return Series(
        uid=first.uid,
        files=tuple(dict.fromkeys(paths)),
        modality=first.modality or _modality_of_class(first.kind),
        patient=first.patient,
        study=first.study,
        date=first.date,
        description=first.description,
        number=first.number,
        image_type=first.image_type,
        rows=slices[0].rows if slices else 0,
        columns=slices[0].columns if slices else 0,
        slices=len(slices),
        spacing=None,
        orientation=None,
        status="left out",
        reason=reason,
        derived=bool({"DERIVED", "SECONDARY"} & set(first.image_type[:2])),
    )


def _kind_of(header: Header) -> str | None:
    """Names what an object is that can never be a volume of measured slices; None if it may be one."""
    modality = header.modality or _modality_of_class(header.kind)
    if modality in RADIOGRAPHS:
        return "radiograph"
    if modality in NO_IMAGES:
        return NO_IMAGES[modality]
    if "Secondary Capture" in header.kind:
        return "secondary capture"
    if not header.slices:
        return NO_PIXELS if "Image" in header.kind else f"not an image ({header.kind or modality})"
    if modality not in VOLUMES:
        return f"modality {modality}: not a stack of slices"
    if header.photometric not in ("MONOCHROME2", ""):
        return f"{header.photometric}: not one measured value a pixel"
    if LOCALISERS & set(header.image_type) or SCOUT_WORDS.search(header.description):
        return "localiser"
    if PROJECTIONS & set(header.image_type) or MIP_WORDS.search(header.description):
        return "projection"
    if "MOSAIC" in header.image_type:
        return "mosaic: the slices of a 4D series in one picture"
    if "SCREEN SAVE" in header.image_type:
        return "secondary capture"
    return None


def _modality_of_class(kind: str) -> str:
    for start, modality in (
        ("CT", "CT"),
        ("Enhanced CT", "CT"),
        ("MR", "MR"),
        ("Enhanced MR", "MR"),
        ("Positron", "PT"),
    ):
        if kind.startswith(start):
            return modality
    return ""
