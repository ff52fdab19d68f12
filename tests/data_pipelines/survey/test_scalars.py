import math

import pytest

from data_pipelines.cases import Case
from data_pipelines.errors import DataError
from data_pipelines.survey.scalars import attach, participants, read_scalars


def table(tmp_path, text, name="participants.tsv", **kwargs):
    path = tmp_path / name
    path.write_text(text, **kwargs)
    return path


def test_ages_of_participants(tmp_path):
    path = table(tmp_path, "participant_id\tsex\tage\nsub-01\tF\t31.5\nsub-02\tM\tn/a\nsub-03\tM\t\n\n")
    assert participants(tmp_path) == path and participants(tmp_path / "none") is None
    cases = [Case(f"sub-0{n}/ses-{ses}", f"sub-0{n}", {}, visit=f"ses-{ses}") for n in (1, 2, 3, 4) for ses in (1, 2)]
    attached, told = attach(cases, read_scalars(path, ("Age",)), ("Age",))
    ages = [case.scalars["Age"] for case in attached]
    assert ages[:2] == [31.5, 31.5] and all(math.isnan(age) for age in ages[2:])
    assert told == [f"{path}: Age is not known of 6 of 8 cases, such as sub-02/ses-1"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("\ufeffsubject,age,weight\nP01,40,70\n", "P01"),
        ("age;subject\n40;P01\n", "P01"),
        ("patient\tage\r\np01\t4e1\r\n", "P01"),
        ("whoever,age\n01,40\n", "sub-01"),
        ('name,age\n"scans/P01.nii.gz",40\n', "P01"),
    ],
)
def test_tables_of_many_kinds(tmp_path, text, key):
    read = read_scalars(table(tmp_path, text, "a.csv", encoding="utf-8"), ("age",))
    (case,), told = attach([Case("scans/P01.nii.gz", key, {})], read, ("age",))
    assert case.scalars == {"age": 40.0} and told == []


def test_a_visit_has_its_own_numbers(tmp_path):
    path = table(tmp_path, "participant_id\tsession_id\tage\nsub-01\tses-1\t30\nsub-01\tses-2\t35\n")
    cases = [Case(f"x{n}", "sub-01", {}, visit=f"ses-{n}") for n in (1, 2)]
    attached, _ = attach(cases, read_scalars(path, ("age",)), ("age",))
    assert [case.scalars["age"] for case in attached] == [30, 35]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id,age\na,31\nb,old\n", "line 3 has 'old' for age, which is no number; correct it, or write n/a"),
        ("id,age\na,89+\n", "line 2 has '89+' for age"),
        ("id,age\na,1e999\n", "line 2 has '1e999' for age"),
        ("id,age\na,1_0\n", "line 2 has '1_0' for age"),
        ("id;age\na;31,5\n", "line 2 has '31,5' for age"),
        ("id,sex\na,F\n", "no column age for data.scalars; its columns are id, sex"),
        ("id,age\na,31\na,32\n", "line 3 gives a other values than a line before it"),
        ("id,age\n", "1 lines, a heading and a line a subject are needed"),
        ("", "0 lines"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(tmp_path, text, expected):
    path = table(tmp_path, text, "a.csv")
    with pytest.raises(DataError) as raised:
        read_scalars(path, ("age",))
    assert str(raised.value).startswith(f"{path}: {expected}") and "\n" not in str(raised.value)


def test_the_same_line_twice_is_no_matter(tmp_path):
    assert read_scalars(table(tmp_path, "id,age\na,31\na,31\nb,n/a\nb,\n"), ("age",)).rows["a"] == {"age": 31}


def test_a_table_of_others_or_none(tmp_path):
    with pytest.raises(DataError, match="names none of the 1 cases, such as x, or subjects, such as P01, but q"):
        attach([Case("x", "P01", {})], read_scalars(table(tmp_path, "id,age\nq,1\n"), ("age",)), ("age",))
    with pytest.raises(DataError, match="cannot be read"):
        read_scalars(tmp_path / "none.csv", ("age",))
    (tmp_path / "utf16.csv").write_bytes("id,age\na,1\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-8"):
        read_scalars(tmp_path / "utf16.csv", ("age",))
