"""Headers of DICOM files: which files are DICOM, what they hold, and where each slice lies; no pixels are read.

An empty element counts as an absent one (de-identifiers blank what they do not remove), and numbers are numbers, however
they are written. Nothing here is sure of more bytes than a file has, whatever lengths it claims.
"""

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import pydicom

MARK = b"DICM"  # at byte 128 (PS3.10, 7.1)
OLD_SUFFIXES = (".dcm", ".ima")  # of files that are taken for DICOM without the mark: some are older than it
VOLUMES = ("CT", "MR", "PT", "")  # modalities of stacks of slices; some files do not say theirs
TAGS = [
    "SOPClassUID", "Modality", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "StudyDate", "SeriesDescription",
    "SeriesNumber", "ImageType", "Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

# What pydicom finds odd in a value is refused by us with its file's name, or does not matter.
warnings.filterwarnings("ignore", module="pydicom")

Numbers = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Slice:
    """One plane of an image.

    Attributes:
      path: of its file.
      frame: in that file, from 0.
      rows, columns: pixels.
      position: (x, y, z) mm of the centre of the first pixel, in DICOM's LPS+; None if not said.
      orientation: unit vectors along the rows (three numbers) and down the columns (three); None if not said.
      spacing: mm between rows, then between columns; None if not said.
    """

    path: Path
    frame: int
    rows: int
    columns: int
    position: Numbers | None
    orientation: Numbers | None
    spacing: Numbers | None


@dataclasses.dataclass(frozen=True)
class Header:
    """Holds what a DICOM file says of itself.

    Attributes:
      path: of the file.
      uid, study: SeriesInstanceUID and StudyInstanceUID, or empty.
      patient: PatientID, or empty.
      date: StudyDate, YYYYMMDD, or empty.
      modality: "CT", "MR", ..., or empty.
      kind: the name of its SOP class, or empty.
      description: SeriesDescription, or empty.
      number: SeriesNumber; 0 if not said.
      image_type: its values in capitals.
      photometric: PhotometricInterpretation: how values are to be shown; "MONOCHROME2" of nearly all scans.
      slices: one a frame; none if it is no image.
    """

    path: Path
    uid: str
    study: str
    patient: str
    date: str
    modality: str
    kind: str
    description: str
    number: int
    image_type: tuple[str, ...]
    photometric: str
    slices: tuple[Slice, ...]


class NotReadable(ValueError):
    """Says why a file that ought to be DICOM cannot be read, in a few words without its name."""


def read_header(path: Path) -> Header | None:
    """Reads what comes before the pixels.

    Returns:
      None for a file that is not DICOM, or only a directory of others (DICOMDIR).

    Raises:
      NotReadable: it has the mark of DICOM, or the suffix .dcm, and is not whole up to its pixels.
    """
    dataset = read_dataset(path, stop_before_pixels=True, specific_tags=TAGS)
    try:
        return None if dataset is None else _header(path, dataset)
    except Exception as error:  # a damaged value can make pydicom raise nearly anything
        raise NotReadable(reason_of(error)) from error


def read_dataset(path: Path, **options: Any) -> pydicom.Dataset | None:
    """Reads a DICOM file with `pydicom.dcmread`; as `read_header` in what is returned and raised."""
    try:
        with path.open("rb") as file:
            marked = file.read(len(MARK) + 128)[128:] == MARK
            old = path.suffix.lower() in OLD_SUFFIXES and not path.name.startswith(".")
            if not marked and not old:
                return None
            file.seek(0)
            dataset = pydicom.dcmread(_Bounded(file, path.stat().st_size), force=not marked, **options)
        if "Directory" in _class_name(dataset):
            return None
    except Exception as error:  # a damaged header can make pydicom raise nearly anything
        raise NotReadable(reason_of(error)) from error
    if "SOPClassUID" not in dataset and "Rows" not in dataset:
        raise NotReadable("cut short" if marked else "no DICOM file, for all its suffix")
    return dataset


def slices_of(path: Path, dataset: pydicom.Dataset) -> tuple[Slice, ...]:
    """The planes of an image, one a frame; () if a file holds none.

    Where a file has functional groups (enhanced CT and MR), a frame's place is that of its own group, or else of the
    shared one (PS3.3, C.7.6.16.1).

    Raises:
      ValueError: a number of the header is none, or there are more or fewer than there should be.
    """
    rows, columns = int(value(dataset, "Rows", 0)), int(value(dataset, "Columns", 0))
    if rows < 1 or columns < 1:
        return ()
    shared = _first(dataset, "SharedFunctionalGroupsSequence")
    own = value(dataset, "PerFrameFunctionalGroupsSequence", ())
    count = max(1, int(value(dataset, "NumberOfFrames", 1)))
    if len(own) not in (0, count):
        raise ValueError(f"{count} frames, but {len(own)} functional groups")
    if count > 1 and not own:  # no frame has a place of its own
        return tuple(Slice(path, n, rows, columns, None, None, None) for n in range(min(count, 2)))
    slices = []
    for n in range(count):
        groups = (own[n], shared) if own else (dataset,)
        slices.append(
            Slice(
                path,
                n,
                rows,
                columns,
                _numbers(groups, "PlanePositionSequence", "ImagePositionPatient", 3),
                _numbers(groups, "PlaneOrientationSequence", "ImageOrientationPatient", 6),
                _numbers(groups, "PixelMeasuresSequence", "PixelSpacing", 2),
            )
        )
    return tuple(slices)


def rescaling(dataset: pydicom.Dataset, frame: int) -> tuple[float | None, float | None]:
    """RescaleSlope and RescaleIntercept of a frame; None for what is not said."""
    own = value(dataset, "PerFrameFunctionalGroupsSequence", ())
    groups = (own[frame], _first(dataset, "SharedFunctionalGroupsSequence")) if own else (dataset,)
    slope = _numbers(groups, "PixelValueTransformationSequence", "RescaleSlope", 1)
    intercept = _numbers(groups, "PixelValueTransformationSequence", "RescaleIntercept", 1)
    return slope[0] if slope else None, intercept[0] if intercept else None


def value(dataset: pydicom.Dataset, key: str, default: Any = None) -> Any:
    """The value of an element; `default` where it is absent or empty."""
    found = dataset.get(key)
    empty = found is None or found == "" or (hasattr(found, "__len__") and len(found) == 0)
    return default if empty else found


def reason_of(error: Exception) -> str:
    """Puts what an error says into one short line of printable characters: it may quote the file."""
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in text)


class _Bounded:
    """Reads a file and asks for no more than it has, however long an element says that it is."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        left = max(0, self.size - self.tell())
        return self.file.read(left if count is None or count < 0 else min(count, left))


def _header(path: Path, dataset: pydicom.Dataset) -> Header:
    image_type = value(dataset, "ImageType", ())
    modality = _text(dataset, "Modality").upper()
    # Of what can be no stack of slices, where each frame lies does not matter, nor whether it can be read.
    slices = slices_of(path, dataset) if modality in VOLUMES else _anywhere(path, dataset)
    return Header(
        path=path,
        uid=_text(dataset, "SeriesInstanceUID"),
        study=_text(dataset, "StudyInstanceUID"),
        patient=_text(dataset, "PatientID"),
        date=_text(dataset, "StudyDate"),
        modality=modality,
        kind=_class_name(dataset),
        description=_text(dataset, "SeriesDescription"),
        number=int(value(dataset, "SeriesNumber", 0)),
        image_type=tuple(_printable(v).upper() for v in ([image_type] if isinstance(image_type, str) else image_type)),
        photometric=_text(dataset, "PhotometricInterpretation").upper(),
        slices=slices,
    )


def _anywhere(path: Path, dataset: pydicom.Dataset) -> tuple[Slice, ...]:
    rows, columns = int(value(dataset, "Rows", 0)), int(value(dataset, "Columns", 0))
    return (Slice(path, 0, rows, columns, None, None, None),) if rows > 0 and columns > 0 else ()


def _class_name(dataset: pydicom.Dataset) -> str:
    uid = value(dataset, "SOPClassUID") or value(getattr(dataset, "file_meta", {}), "MediaStorageSOPClassUID", "")
    return _printable(getattr(uid, "name", uid))


def _text(dataset: pydicom.Dataset, key: str) -> str:
    return _printable(value(dataset, key, ""))


def _printable(text: Any) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(text).strip())


def _first(dataset: pydicom.Dataset, key: str) -> pydicom.Dataset:
    return value(dataset, key, (pydicom.Dataset(),))[0]


def _numbers(groups: tuple[pydicom.Dataset, ...], macro: str, key: str, count: int) -> Numbers | None:
    """Numbers of the first group that has them, in a macro of its own or, in a plain file, at the top."""
    for group in groups:
        found = value(_first(group, macro), key)
        if found is None:
            found = value(group, key)
        if found is not None:
            numbers = tuple(float(v) for v in (found if hasattr(found, "__len__") else (found,)))
            if len(numbers) != count or not all(math.isfinite(v) for v in numbers):
                raise ValueError(f"{key} is {found}, not {count} numbers")
            return numbers
    return None
