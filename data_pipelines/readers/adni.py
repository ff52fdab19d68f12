"""ADNI, as downloaded in NIfTI: SUBJECT/DESCRIPTION/DATE/IMAGE/ADNI_SUBJECT_MR_MPRAGE_....nii, or brains made of these.

The published Medical Diffusion (arXiv 2211.03364) crops to the brain, which takes scans whose skulls are stripped.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.formats.nifti import is_nifti
from data_pipelines.readers import folder
from data_pipelines.readers.atlas_layouts import Atlas, write_files
from data_pipelines.readers.folder import list_files
from data_pipelines.readers.reader import Found, Reader
from data_pipelines.transforms import to_orientation

SUBJECT = re.compile(r"\d{3}_S_\d{4,5}")  # the site, then the person
T1 = re.compile(r"MP-?RAGE|MPR(?![a-z])|SPGR|T1w?", re.IGNORECASE)  # what scanners and processing call the series
NO_SCAN = re.compile(r"mask|seg(?![a-z])|label", re.IGNORECASE)  # what else lies beside brains


def find_cases(root: Path) -> tuple[Case, ...]:
    """The T1 scans (MPRAGE, or SPGR of older scanners) of all subjects, at any depth.

    Raises:
      DataError: no such folder, or no such scans in it.
    """
    files = [path.relative_to(root) for path in list_files(root) if is_nifti(path)]
    scans = []
    for path in files:
        subject = SUBJECT.search(str(path))
        if subject and T1.search(str(path)) and not NO_SCAN.search(path.name):
            scans.append(Case(str(path), subject.group(), {"t1": root / path}))
    if not scans:
        raise DataError(
            f"data.root={root}: {len(files)} NIfTI files, none with a subject like 002_S_0295 and MPRAGE in its path; "
            "give the folder of the ADNI download in NIfTI, or use configs/medical_diffusion.py:folder"
        )
    return tuple(scans)


def write_made_up(cache: Path, subjects: Atlas, count: int, channels: Sequence[str] = ()) -> Path:
    """Writes subjects as ADNI in NIfTI may lie once skulls are stripped, left, anterior, superior as FSL has them.

    Returns:
      The root.
    """
    root = subjects.folder(cache, "atlas-as-adni")

    def scan(n: int) -> Case:
        name = f"{n // 1000:03d}_S_{n:04d}"
        return Case(name, name, {"t1": root / name / "MPRAGE" / f"I{n}" / f"ADNI_{name}_MR_MPRAGE_brain_I{n}.nii"})

    write_files(root, subjects, [scan(n) for n in range(count)], lambda image: to_orientation(image, "LAS"))
    return root


ADNI = Reader(
    find=lambda root, chosen: Found(find_cases(root)),
    preprocessing=folder.chosen_preprocessing,
    write_made_up=write_made_up,
)
