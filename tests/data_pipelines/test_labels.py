from pathlib import Path

import pytest

from data_pipelines import labels
from data_pipelines.cases import Case
from data_pipelines.errors import DataError


@pytest.mark.parametrize(
    "text", ["a,0\nb,2\n", "name,label\na,0\nb,2\n", "a,0,left\n\nb, 2,right", "\ufeffa,0\r\nb,2\r\n"]
)
def test_lines_of_name_and_label(tmp_path, text):
    (tmp_path / "labels.csv").write_bytes(text.encode())
    assert labels.read_table(tmp_path / "labels.csv") == {"a": 0, "b": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a,0\nb,AD\n", "line 2 is 'b,AD'"), ("a,0\nb\n", "line 2 is 'b'"), ("a,0\nb,-1\n", "line 2"), ("", "no line")],
)
def test_other_tables(tmp_path, text, expected):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=rf"labels\.csv: {expected}"):
        labels.read_table(tmp_path / "labels.csv")
    with pytest.raises(DataError, match=r"other\.csv: cannot be read"):
        labels.read_table(tmp_path / "other.csv")


def test_of_scans_or_of_their_subjects(tmp_path):
    scans = tuple(Case(f"{subject}/t1.nii", subject, {"t1": Path(subject)}) for subject in ("a", "b", "c"))
    (tmp_path / "labels.csv").write_text("a,0\nb,1\nb/t1.nii,2\n")
    assert [scan.label for scan in labels.attach(scans, tmp_path / "labels.csv")] == [0, 2, None]
    (tmp_path / "labels.csv").write_text("x,0\n")
    with pytest.raises(DataError, match="names none of the 3 scans, such as a/t1.nii, or subjects, such as a;"):
        labels.attach(scans, tmp_path / "labels.csv")
