import json

from data_pipelines import notices
from data_pipelines.notices import Kind, Notice


def test_one_line_a_kind_counts_files_and_names_the_first(capsys):
    seen = [
        ("a.nii", [Notice(Kind.NAN, "40% of the voxels")]),
        ("b.nii", [Notice(Kind.DISAGREE), Notice(Kind.NAN, "2% of the voxels")]),
        ("c.nii", []),
        ("d.nii", [Notice(Kind.DISAGREE), Notice(Kind.DISAGREE)]),
        ("e.nii", [Notice(Kind.UNIT, "code 4")]),
    ]
    notices.tell(seen)
    assert capsys.readouterr().err.splitlines() == [
        "2 files: sform and qform place the voxels differently; the sform is used, as nibabel and FSL do (first b.nii)",
        "1 file: the unit (xyzt_units) is none of the standard's; millimetres are assumed (e.nii, code 4)",
        "2 files: NaN is taken for background (first a.nii, 40% of the voxels)",
    ]


def test_nothing_is_told_of_files_without_doubt(capsys):
    notices.tell([("a.nii", ())])
    assert capsys.readouterr().err == ""


def test_every_kind_is_one_line_of_its_own():
    texts = [kind.value for kind in Kind]
    assert len(set(texts)) == len(Kind) and not any("\n" in text or text.endswith(".") for text in texts)


def test_shares_of_all_files_are_one_line_with_the_least():
    seen = [(f"{n}.nii", [Notice(Kind.BRAIN, share=share)]) for n, share in enumerate((0.7, 0.09, 0.4))]
    assert notices.lines(seen) == [
        "3 files: cropped to the brain, whose box fills 9% to 70% of the scan, 40% at the median (least 1.nii)"
    ]
    assert notices.lines(seen[:1]) == ["1 file: cropped to the brain, whose box fills 70% of the scan (0.nii)"]


def test_notices_outlive_json():
    kept = [Notice(Kind.NAN, "40%"), Notice(Kind.BRAIN, share=0.25)]
    plain = notices.as_plain(kept)
    assert notices.from_plain(json.loads(json.dumps(plain))) == kept
    assert notices.from_plain([{"kind": "OF_A_LATER_VERSION", "detail": "", "share": None}, *plain]) == kept
