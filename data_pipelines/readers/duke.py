"""Duke-Breast-Cancer-MRI, converted to NIfTI: a folder a patient, Dyn_0.nii.gz before contrast, Dyn_1 and on after it.

The published Medical Diffusion (arXiv 2211.03364) is of `Dyn_0`. The download itself is DICOM: convert it first.
"""

import re
from pathlib import Path

from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import is_nifti, stem
from data_pipelines.readers import folder
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Reader
from data_pipelines.subjects import person_in, subject_of
from data_pipelines.transforms import to_orientation

NAME = re.compile(r"Dyn_\d+")
BEFORE_CONTRAST = "Dyn_0"
PATIENT = re.compile(r"Breast_MRI_\d+")


def find_cases(root: Path, series: str = BEFORE_CONTRAST) -> tuple[Case, ...]:
    """The scans PATIENT/Dyn_0.nii.gz ..., at any depth; the patient is the folder the file is in, less a visit.

    Args:
      root: of the patients' folders.
      series: which of the dynamic series.

    Raises:
      DataError: no such folder, or no such scans in it.
    """
    files = [path for path in list_files(root) if is_nifti(path)]
    scans = [path for path in files if stem(path) == series and path.parent != root]
    if not scans:
        raise DataError(
            f"data.root={root}: {len(files)} NIfTI files, none PATIENT/{series}.nii.gz; give the folder of the patients"
        )
    folders = [path.parent.relative_to(root) for path in scans]
    return tuple(Case(str(folder), _patient(folder), path) for folder, path in zip(folders, scans, strict=True))


def _patient(folder: Path) -> str:
    match = PATIENT.search(str(folder))
    return match.group() if match else subject_of(folder.name if person_in(folder.name) else folder.as_posix())


def write_made_up(cache: Path, subjects: Atlas, count: int, series: str | None = None) -> Path:
    """Writes subjects as Duke-Breast-Cancer-MRI converted to NIfTI lies, one folder a patient.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-duke")

    def scan(n: int) -> Case:
        name = f"Breast_MRI_{n + 1:05d}"
        return Case(name, name, root / name / f"{series or BEFORE_CONTRAST}.nii.gz")

    write_files(root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, "LPS"))
    return root


DUKE = Reader(
    find=lambda root, chosen: find_cases(root, chosen.series or BEFORE_CONTRAST),
    preprocessing=folder.chosen_preprocessing,
    write_made_up=write_made_up,
    series=("Dyn_N",),
    is_series=lambda name: bool(NAME.fullmatch(name)),
)
