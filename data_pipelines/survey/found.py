"""Defines what a survey finds: files as their names tell, cases of them, and a row for each in cases.csv."""

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path

from data_pipelines.cases import Case

UNNAMED = "image"  # the channel of files that name none


class Kind(enum.Enum):
    """Says for what a file is taken."""

    IMAGE = "image"
    LABEL_MAP = "label map"
    OTHER = "other"  # nothing to learn from, its reason says why


@dataclasses.dataclass(frozen=True)
class Item:
    """One file that holds a volume, as its name tells.

    Attributes:
      name: its path below the root, with slashes.
      layout: by which it was read, for people.
      case: what the images of one visit, and their label map, have in common; unique in a layout.
      subject: whose it is.
      visit: which of the subject's, empty if the name does not say.
      channel: which of a case's images, such as "T1w"; for a label map what it is called.
      aliases: other names of that channel.
      kind: what it is taken for.
      reason: why it is no image; empty for one. What comes before a colon is what such files are counted by.
      preference: sorts the files of one channel of one case; the first is used.
      grid: of the images that a label map fits, where a name says so: "space-MNI".
    """

    name: str
    layout: str
    case: str
    subject: str
    visit: str = ""
    channel: str = UNNAMED
    aliases: tuple[str, ...] = ()
    kind: Kind = Kind.IMAGE
    reason: str = ""
    preference: tuple[int | str, ...] = ()
    grid: str = ""

    def left_out(self, reason: str, kind: Kind = Kind.OTHER) -> "Item":
        """The same file, as none of the images."""
        return dataclasses.replace(self, kind=kind, reason=reason)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of cases.csv: a case that is used, or a file that is not.

    Attributes:
      name: of the case; of a file that belongs to none, its path below the root.
      subject: whose it is, as far as is known.
      split: the side it is on, for the caller to fill in.
      files: paths below the root, images in the order of the channels, then the label map.
      shape: of the first image, as stored; () where it could not be read.
      spacing: of its voxels, in millimetres.
      orientation: such as "RAS".
      status: "used", "left out" or "unreadable".
      reason: for the status; for a used case what is worth knowing.
    """

    name: str
    subject: str = ""
    split: str = ""
    files: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    orientation: str = ""
    status: str = "left out"
    reason: str = ""


@dataclasses.dataclass(frozen=True)
class Survey:
    """Holds what lies under a folder.

    Attributes:
      root: the folder.
      layout: in words, such as "BIDS".
      cases: what can be trained on, by name.
      rows: of cases.csv, by name.
      channels: in how many cases there is each channel, the most frequent first.
      notes: what else is worth a line to the user.
      notices: of each used file with any, what its header leaves in doubt.
      dicom_files: files that begin as DICOM does; what they hold is for others to say.
    """

    root: Path
    layout: str
    cases: tuple[Case, ...]
    rows: tuple[Row, ...]
    channels: Mapping[str, int]
    notes: tuple[str, ...] = ()
    notices: tuple[tuple[str, tuple], ...] = ()
    dicom_files: tuple[Path, ...] = ()
