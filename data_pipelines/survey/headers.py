"""Reads headers only: a stand-in for data_pipelines.formats.read and .sniff, whose names and fields these are."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np

from data_pipelines.errors import DataError

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".mgh", ".mgz", ".npy")
CONVERTED = (".nrrd", ".nhdr", ".mha", ".mhd", ".mnc")


class NotFetchedError(DataError):
    """Tells that a file stands for content that is elsewhere."""


@dataclasses.dataclass(frozen=True)
class Look:
    """Holds what a header says of a file.

    Attributes:
      shape: all its lengths, as stored.
      dtype: of the values as stored; with fields for colours.
      affine: [4, 4] float64, voxel indices to RAS+ world coordinates in millimetres.
      scaling: (slope, intercept) to apply to stored values; None if they are the values.
      intent: what the header calls the values, such as "label"; empty if nothing.
      voxels: the file that the values are in.
      gzipped: whether that file is gzipped.
      offset: bytes before the first value there, inflated.
      notices: what is doubtful in it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    affine: np.ndarray
    scaling: tuple[float, float] | None
    intent: str
    voxels: Path
    gzipped: bool
    offset: int
    notices: tuple = ()

    @property
    def spacing(self) -> np.ndarray:
        """[3] voxel edge lengths in millimetres."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def orientation(self) -> str:
        """Where the axes run, nearly, such as "RAS"."""
        return "".join(nib.orientations.aff2axcodes(self.affine))


def is_image(path: Path) -> bool:
    """Whether the name is that of a file with a volume; of a pair .hdr and .img the .hdr is it."""
    name = path.name.lower()
    paired = name.endswith(".img") and path.with_suffix(".hdr").exists()
    return name.endswith(SUFFIXES) and not name.startswith(".") and not paired


def advice(path: Path) -> str | None:
    """Says what to do with a volume of another format; None for other names."""
    return "convert it to NIfTI" if path.name.lower().endswith(CONVERTED) else None


def look(path: Path) -> Look:
    """Reads the header of a file, and no voxels.

    Raises:
      NotFetchedError: its content is elsewhere.
      DataError: it cannot be read.
    """
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return Look(array.shape, array.dtype, np.eye(4), None, "", path, False, array.offset)
        start = path.open("rb").read(200)
        if b"annex/objects/" in start.split(b"\n")[0]:
            raise NotFetchedError(
                f"{path}: its content is not here: `datalad get FILE` or `git annex get FILE` fetches it"
            )
        if start.startswith(b"version https://git-lfs.github.com/spec/"):
            raise NotFetchedError(f"{path}: its content is not here: `git lfs pull` fetches it")
        image = nib.load(path)
        values = image.dataobj
        voxels = Path(image.file_map["image"].filename)
        scaling = None if (values.slope, values.inter) == (1.0, 0.0) else (values.slope, values.inter)
        intent = image.header.get_intent()[0] if isinstance(image.header, nib.Nifti1Header) else ""
        gzipped = voxels.open("rb").read(2) == b"\x1f\x8b"
        return Look(
            image.shape, image.get_data_dtype(), np.asarray(image.affine, np.float64), scaling,
            "" if intent == "none" else intent, voxels, gzipped, values.offset,
        )  # fmt: skip
    except DataError:
        raise
    except Exception as error:  # a damaged header can make nibabel raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable volume ({reason}); replace or remove it") from error
