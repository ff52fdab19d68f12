import csv

from data_pipelines.survey.found import Row
from data_pipelines.survey.table import write_cases_csv


def test_cases_csv(tmp_path):
    rows = [
        Row("p01", "p01", "train", ("p01/t1.nii", "p01/seg.nii"), (240, 240, 155), (1.0, 0.9375, 1.2), "LPS", "used"),
        Row('a, "b"\n.nii', reason="label map: by its name"),
        Row("un\udcfftf.nii", status="unreadable", reason="x"),
    ]
    write_cases_csv(tmp_path / "run/cases.csv", rows)
    with (tmp_path / "run/cases.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found[0] == {
        "name": "p01", "subject": "p01", "split": "train", "files": "p01/t1.nii|p01/seg.nii", "shape": "240x240x155",
        "spacing": "1x0.9375x1.2", "orientation": "LPS", "status": "used", "reason": "",
    }  # fmt: skip
    assert found[1]["name"] == 'a, "b"\n.nii' and found[1]["status"] == "left out" and found[1]["shape"] == ""
    assert found[2]["name"] == "un\\udcfftf.nii"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["cases.csv"]
