import pytest

from data_pipelines.errors import DataError
from data_pipelines.formats.dicom_choice import choose, tell
from data_pipelines.formats.dicom_series import find_series
from test_dicom import SLICES, write_slice
from test_dicom_series import write_series


def write(folder, number, count=SLICES, distance=2.5, **changes):
    named = {"SeriesInstanceUID": f"1.2.{number}", "SeriesNumber": number, "StudyInstanceUID": "1", "PatientID": "P"}
    for k in range(count):
        position = {"ImagePositionPatient": [0.0, 0.0, distance * k]}
        write_slice(folder / f"{number}/{k}", k, **(named | position | changes))


def by_number(folder, **options):
    return {series.number: series for series in choose(find_series(folder), **options)}


def used(folder, **options):
    return [number for number, series in by_number(folder, **options).items() if series.status == "use"]


def test_the_thinnest_slices_then_the_most_then_the_lowest_number(tmp_path):
    write(tmp_path, 2, count=20, distance=5)
    write(tmp_path, 3, count=6, distance=1)
    write(tmp_path, 5, count=8, distance=1)
    write(tmp_path, 4, count=8, distance=1)
    chosen = by_number(tmp_path)
    assert used(tmp_path) == [4]
    assert chosen[4].reason == "chosen of 4 series: series number 4, not 5"
    assert chosen[2].reason == "another series of the study is used, series 4: slices 1 mm apart, not 5"
    assert chosen[3].reason == "another series of the study is used, series 4: 8 slices, not 6"
    assert chosen[5].reason == "another series of the study is used, series 4: series number 4, not 5"


def test_every_study_patient_and_modality_keeps_one(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, StudyInstanceUID="2")
    write(tmp_path, 3, PatientID="Q")
    write(tmp_path, 4, Modality="PT")
    assert used(tmp_path) == [1, 4, 2, 3]


def test_subjects_without_any_identifier_are_told_apart_by_folders(tmp_path):
    for number in (1, 2, 3):
        write(tmp_path, number, PatientID="", StudyInstanceUID="")
    assert used(tmp_path) == [1, 2, 3]


def test_derived_series_are_used_only_without_an_original(tmp_path):
    derived = ["DERIVED", "PRIMARY", "AXIAL"]
    write(tmp_path, 1, distance=1, ImageType=derived)
    assert used(tmp_path) == [1]
    assert by_number(tmp_path)[1].reason == "derived, no original of it in the study"
    write(tmp_path, 2, distance=5)
    chosen = by_number(tmp_path)
    assert used(tmp_path) == [2]
    assert chosen[1].reason == "another series of the study is used, series 2: derived"
    assert chosen[2].reason == "chosen of 2 series: the original"


def test_what_was_left_out_stays_so_and_keeps_its_reason(tmp_path):
    write(tmp_path, 1, count=3, distance=0.5)
    write(tmp_path, 2)
    chosen = by_number(tmp_path)
    assert (chosen[1].status, chosen[1].reason) == ("left out", "3 slices only")
    assert (chosen[2].status, chosen[2].reason) == ("use", "")


def test_a_description_can_be_asked_for(tmp_path):
    write(tmp_path, 1, distance=1, SeriesDescription="t1_mprage")
    write(tmp_path, 2, SeriesDescription="FLAIR sag")
    assert used(tmp_path, wanted="flair") == [2]
    assert by_number(tmp_path, wanted="flair")[1].reason == "description 't1_mprage' does not match 'flair'"
    with pytest.raises(DataError, match="no regular expression"):
        choose((), wanted="(")


def test_a_few_lines_tell_what_is_used_and_what_not(tmp_path, capsys):
    write(tmp_path, 1)
    write(tmp_path, 2, distance=5)
    write(tmp_path, 3, PatientID="Q", count=12)
    (tmp_path / "3/6").unlink()
    write_series(tmp_path / "x", 1, StudyInstanceUID="2", SeriesDescription="scout")
    write(tmp_path, 5, PatientID="R", Modality="MR", SeriesDescription="T1")
    write(tmp_path, 6, PatientID="S", Modality="MR", SeriesDescription="T2")
    tell("data.root=X", choose(find_series(tmp_path)))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "data.root=X: 6 DICOM series, 3 used of 3 patients; left out: 1 localiser, "
        "1 another series of the study is used, 1 with slices missing or uneven"
    )
    assert lines[1].startswith("data.root=X: 1 of 6 series cannot be used: ")
    assert lines[1].endswith("/3: series 3 1.2.3: 11 of 12 slices, 1 missing at 2.5 mm")
    assert "go by 2 descriptions (1 'T1', 1 'T2')" in lines[2]
    assert len(lines) == 3
