"""Duke-Breast-Cancer-MRI, converted to NIfTI: a folder a patient, Dyn_0.nii.gz before contrast, Dyn_1 and on after it.

The published Medical Diffusion (arXiv 2211.03364) is of `Dyn_0`. The download itself is DICOM: convert it first.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import is_nifti, stem
from data_pipelines.readers import folder
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Found, Reader
from data_pipelines.subjects import person_in, subject_of
from data_pipelines.transforms import to_orientation

NAME = re.compile(r"Dyn_\d+")
BEFORE_CONTRAST = "Dyn_0"
PATIENT = re.compile(r"Breast_MRI_\d+")


def find_cases(root: Path, channels: Sequence[str] = (BEFORE_CONTRAST,)) -> tuple[Case, ...]:
    """The scans PATIENT/Dyn_0.nii.gz ..., at any depth; the patient is the folder the file is in, less a visit.

    Args:
      root: of the patients' folders.
      channels: which of the dynamic series, in the order wanted; a patient who lacks one is left out.

    Raises:
      DataError: no such folder, or no such scans in it.
    """
    files = [path for path in list_files(root) if is_nifti(path)]
    series = {path.parent / stem(path): path for path in files if path.parent != root}
    scans = [path for path in files if stem(path) == channels[0] and path.parent != root]
    scans = [path for path in scans if all(path.parent / channel in series for channel in channels)]
    if not scans:
        raise DataError(
            f"data.root={root}: {len(files)} NIfTI files, none PATIENT/{channels[0]}.nii.gz; give the folder of the patients"
        )
    folders = [path.parent.relative_to(root) for path in scans]
    return tuple(
        Case(str(folder), _patient(folder), {channel: series[path.parent / channel] for channel in channels})
        for folder, path in zip(folders, scans, strict=True)
    )


def _patient(folder: Path) -> str:
    match = PATIENT.search(str(folder))
    return match.group() if match else subject_of(folder.name if person_in(folder.name) else folder.as_posix())


def write_made_up(cache: Path, subjects: Atlas, count: int, channels: Sequence[str] = (BEFORE_CONTRAST,)) -> Path:
    """Writes subjects as Duke-Breast-Cancer-MRI converted to NIfTI lies, one folder a patient.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-duke")

    def scan(n: int, channel: str) -> Case:
        name = f"Breast_MRI_{n + 1:05d}"
        return Case(name, name, {channel: root / name / f"{channel}.nii.gz"})

    for channel in channels or (BEFORE_CONTRAST,):
        scans = [scan(n, channel) for n in range(count)]
        write_files(root, subjects, scans, lambda image: to_orientation(image, "LPS"))
    return root


DUKE = Reader(
    find=lambda root, chosen: Found(find_cases(root, chosen.channels or (BEFORE_CONTRAST,))),
    preprocessing=folder.chosen_preprocessing,
    write_made_up=write_made_up,
    channels=("Dyn_N",),
    is_channel=lambda name: bool(NAME.fullmatch(name)),
)
