import pytest

from data_pipelines.errors import DataError
from data_pipelines.survey.sides import fixed_sides, unmatched


def test_sides_are_as_the_table_says(tmp_path):
    path = tmp_path / "splits.csv"
    path.write_text("subject,split\np01,train\np02,validation\np03,test\np01,train\n")
    assert fixed_sides(path) == {"p01": "train", "p02": "validation", "p03": "test"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("subject,split\np01,val\n", "line 2 puts p01 on 'val'; use one of train, validation, test"),
        ("subject,split\np01,train\np02,test\np01,test\n", "line 4 puts p01 on test, a line before it on train"),
        ("subject,split\n,train\n", "line 2 names no subject"),
        ("name,side\np01,train\n", "its columns are name, side; give a heading subject,split"),
        ("p01,train\np02,test\n", "its columns are p01, train; give a heading subject,split"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, text, expected):
    path = tmp_path / "splits.csv"
    path.write_text(text)
    with pytest.raises(DataError) as raised:
        fixed_sides(path)
    assert str(raised.value).startswith(f"{path}: {expected}")


def test_who_is_not_there_and_who_is_not_in_it_are_told(tmp_path):
    sides = {"p01": "train", "p09": "test"}
    assert unmatched(tmp_path, sides, ["p01", "p02", "p02", "p03"]) == [
        f"{tmp_path}: 1 of its subjects are not among the scans, such as p09",
        f"{tmp_path}: 2 of 3 subjects are not in it, such as p02; data.split_seed places them",
    ]
    assert unmatched(tmp_path, sides, ["p01", "p09"]) == []
    with pytest.raises(DataError, match="names none of the 1 subjects, such as q, but p01"):
        unmatched(tmp_path, sides, ["q"])
