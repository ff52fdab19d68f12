import re

import pytest

from data_pipelines.errors import DataError
from data_pipelines.readers.folder import find_cases
from data_pipelines.splits import side
from data_pipelines.subjects import (
    by_pattern,
    compiled,
    divided,
    doubts,
    one_spelling,
    person_of,
    subject_of,
    tell,
    twofold,
)


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("sub-01", ["derivatives/fmriprep/sub-01/anat/sub-01_T1w.nii.gz", "sub-01/ses-2/anat/x.nii", "sub-01_ses-1_T1w.nii.gz"]),
        ("anna", ["anna_T1/anna_1.nii", "anna_T1/2.nii"]),
        ("IXI012-Guys-0827", ["IXI-T1/IXI012-Guys-0827-T1.nii.gz", "IXI012-Guys-0827.nii"]),
        ("IXI012-Guys-0827", ["T1/IXI012-Guys-0827-T1.nii.gz", "IXI012-Guys-0827-T2.nii.gz", "PD/IXI012-Guys-0827-PD.nii.gz"]),
        ("p01", ["FLAIR/p01.nii.gz", "T2/p01.nii", "visit_2/p01.nii", "p01_visit2.nii", "ses-1/p01/t1.nii", "p01-baseline.nii"]),
        ("case_000", ["imagesTr/case_000_0000.nii.gz", "imagesTr/case_000_0001.nii.gz", "labelsTr/case_000.nii.gz"]),
        ("patient000", ["patient000_t0.nii.gz", "patient000_t1.nii.gz", "patient000/t1ce.nii", "train/patient000/seg.nii.gz"]),
        ("BraTS-GLI-00000", ["BraTS-GLI-00000-001-t1n.nii.gz", "BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz"]),
        ("BraTS20_Training_001", ["BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz"]),
        ("Brats18_2013_2", ["HGG/Brats18_2013_2_1/Brats18_2013_2_1_t1.nii.gz"]),
        ("UCSF-PDGM-0004", ["UCSF-PDGM-0004_FU003d_T1.nii.gz", "UCSF-PDGM-0004_FLAIR.nii"]),
        ("UPENN-GBM-00001", ["UPENN-GBM-00001_11_T1GD.nii.gz", "x/UPENN-GBM-00001_21/a.nii"]),
        ("anna", ["anna_t0.nii", "anna_v1.NII.GZ", "anna_t1.nii", "anna/t0.mgz"]),
        ("P7", ["P7_T1.NII.GZ", "P7/FLAIR.HDR", "P7.mgz"]),
        ("OAS30001", ["OAS30001_MR_d0129/anat1/x.nii.gz"]),
        ("002_S_0295", ["ADNI/002_S_0295/MPRAGE/2006/I1/x.nii", "002_S_0295_MPRAGE.nii"]),
        ("P001", ["P001_20200101_T1.nii.gz", "P001_2020-01-01.nii.gz", "P001_V2.nii", "P001_preop_T1.nii", "P001_mask.nii"]),
        ("anna", ["anna_t1.nii", "anna/a.npy"]),
        ("patient 1", ["patient 1/a.npy", "patient 1/b/c.nii"]),
        ("case_7", ["case_7.nii.gz"]),
        ("M01", ["M01_T1.nii", "M01_T2.nii"]),
        ("0", ["0.nii.gz", "images/0.nii.gz"]),
        ("t1", ["t1.nii"]),
    ],
)  # fmt: skip
def test_a_subject_is_found_in_the_names_that_people_give(subject, names):
    assert {name: subject_of(name) for name in names} == dict.fromkeys(names, subject)


LAYOUTS = {
    "BIDS with derivatives": (
        "sub-{n:02d}/anat/sub-{n:02d}_T1w.nii.gz",
        "derivatives/fmriprep/sub-{n:02d}/anat/sub-{n:02d}_desc-preproc_T1w.nii.gz",
    ),
    "a folder for each contrast": ("T1/p{n:02d}.nii.gz", "T2/p{n:02d}.nii.gz", "FLAIR/p{n:02d}.nii.gz"),
    "flat names": ("IXI{n:03d}-Guys-T1.nii.gz", "IXI{n:03d}-Guys-T2.nii.gz"),
    "channels of nnU-Net": ("imagesTr/case_{n:03d}_0000.nii.gz", "imagesTr/case_{n:03d}_0001.nii.gz"),
    "visits": ("P{n:03d}_visit1.nii.gz", "P{n:03d}_visit2.nii.gz"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nobody_is_on_both_sides_of_the_split(tmp_path, layout):
    for n in range(20):
        for name in LAYOUTS[layout]:
            path = tmp_path / name.format(n=n)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    scans = find_cases(tmp_path)
    assert len({scan.subject for scan in scans}) == 20
    people = {name: {re.search(r"\d+", scan.path.name).group() for scan in scans if side(scan.subject, (0.6, 0.4, 0), 0) == name}
              for name in ("train", "validation")}  # fmt: skip
    assert len(people["train"]) + len(people["validation"]) == 20 and not people["train"] & people["validation"]


def told(capsys, names, subjects=None) -> list[str]:
    tell("data.root=SCANS", list(zip(names, subjects or map(subject_of, names), strict=True)))
    return capsys.readouterr().err.splitlines()


def test_how_many_subjects_there_are_is_told(capsys):
    lines = told(capsys, [f"IXI{n:03d}-Guys-{series}.nii" for n in range(20) for series in ("T1", "T2")])
    assert lines == ["data.root=SCANS: 40 scans of 20 subjects, such as IXI000-Guys-T1.nii -> IXI000-Guys"]


def test_a_subject_of_many_scans_is_told(capsys):
    lines = told(capsys, [f"hospital{n % 3}/p{n:02d}.nii" for n in range(30)])
    assert len(lines) == 2 and "10 of the 30 scans are of one subject, hospital0" in lines[1]
    assert "data.subject_pattern=REGEX" in lines[1]
    assert len(told(capsys, ["a/1.nii", "a/2.nii", "b/3.nii"])) == 1  # a handful


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([f"{kind}/p{n:02d}.nii" for kind in ("MOLLI", "LGE") for n in range(20)], ("MOLLI/p00.nii", "LGE/p00.nii")),
        ([f"p{n}_{k}.nii" for n in range(20) for k in (1, 2)], ("p0_1.nii", "p0_2.nii")),
        ([f"patient{n}/scan{k}.nii" for n in range(20) for k in (1, 2)], None),
        ([f"sub-{n:02d}_T1w.nii" for n in range(20)], None),
        ([f"subject_{n}/t1.nii.gz" for n in range(20)], None),
        ([f"case_{n}.nii.gz" for n in range(20)], None),
    ],
)
def test_one_person_under_two_names_is_suspected(names, found):
    assert twofold([(name, subject_of(name)) for name in names]) == found


def test_a_pattern_finds_the_subject():
    pattern = compiled(r"^\w+/(p\d+)")
    assert by_pattern("MOLLI/p07_1.nii", pattern) == "p07"
    with pytest.raises(DataError, match="finds no subject in LGE/q07.nii"):
        by_pattern("LGE/q07.nii", pattern)
    for wrong, expected in (("p(", "no regular expression"), (r"p\d+", "has no group")):
        with pytest.raises(DataError, match=expected) as raised:
            compiled(wrong)
        assert str(raised.value).startswith("data.subject_pattern=") and "\n" not in str(raised.value)


def test_a_name_is_divided_into_the_person_and_the_other_words():
    assert divided("IXI012-Guys-0827-T1") == ("IXI012-Guys-0827", ("T1",))
    assert divided("P001_20200131_T1_n4") == ("P001", ("20200131", "T1", "n4"))
    assert divided("t1_anna") == ("anna", ("t1",)) and divided("brain_mask") == ("", ("brain", "mask"))


def test_no_person_is_named():
    assert person_of("anat/t1.nii.gz") == "" and subject_of("anat/t1.nii.gz") == "anat/t1"


def test_names_that_differ_in_spelling_alone_are_one_persons():
    names = ["P01", "p01", "p02", "Zoe\u0308", "Zo\u00eb"]
    found = one_spelling(name for name in names)
    assert found == {"P01": "P01", "p01": "P01", "p02": "p02", "Zoe\u0308": "Zo\u00eb", "Zo\u00eb": "Zo\u00eb"}


def test_doubts_are_lines_of_their_own():
    assert doubts([(f"sub-{n}.nii", f"sub-{n}") for n in range(9)]) == []
    (line,) = doubts([(f"a/{n}x.nii", "a") for n in range(9)])
    assert line.startswith("9 of the 9 scans are of one subject, a; if that is not so, set data.subject_pattern")
