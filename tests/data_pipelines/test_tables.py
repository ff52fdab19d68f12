"""Tables beside the scans, through dataset, batches and records: numbers of subjects, and sides that are fixed."""

import numpy as np
import pytest

from data_pipelines import batches, datasets
from data_pipelines.errors import DataError
from data_pipelines.splits import SPLITS
from prepared import N, changed, make, scans_to_prepare

AGES = {str(n): 20.5 + n for n in range(N - 1)}  # "6-late" is of subject 6-late, who is in no table


@pytest.fixture
def data(tmp_path):
    lines = "".join(f"subject {name},{age},x\n" for name, age in AGES.items())
    (tmp_path / "ages.csv").write_text(f"subject,age,site\n{lines}subject 0,20.5,y\n")
    return changed(scans_to_prepare(tmp_path), scalars=("age",), table=str(tmp_path / "ages.csv"))


def age_of(example):
    return AGES.get(example.subject.removeprefix("subject "), np.nan)


def test_numbers_come_to_the_batch_and_are_nan_where_they_are_not_known(data, capsys):
    dataset = datasets.open_dataset(changed(data, records=None), 0)
    assert "age is not known of 1 of 9 cases, such as subject 6-late" in capsys.readouterr().err
    assert dataset.scalars == ("age",)
    of_volume = {}
    for side in SPLITS:
        examples = getattr(dataset, side)
        expected = np.array([[age_of(example)] for example in examples], np.float32)
        np.testing.assert_array_equal(batches.known(dataset, side)["scalars"], expected)
        if side == "train":
            of_volume = dict(zip((v.tobytes() for v in batches.volumes(dataset, side)), expected[:, 0], strict=True))
    batch = next(batches.train_batches(dataset, 0, 5))
    assert batch["scalars"].dtype == np.float32 and batch["scalars"].shape == (5, 1)
    for image, values in zip(batch["image"], batch["scalars"], strict=True):
        np.testing.assert_array_equal(values, [of_volume[image.tobytes()]])


def test_records_hold_them(data):
    make(data)
    files, prepared = (datasets.open_dataset(changed(data, records=kept), 0) for kept in (None, data.records))
    assert files.identity() == prepared.identity()
    for side in SPLITS:
        ours, theirs = (batches.known(dataset, side)["scalars"] for dataset in (prepared, files))
        np.testing.assert_array_equal(ours, theirs)
    without = datasets.open_dataset(changed(data, scalars=None, table=None), 0)
    assert without.scalars == () and "scalars" not in next(batches.train_batches(without, 0, 2))
    with pytest.raises(DataError, match="data.scalars is .*was prepared with"):
        datasets.open_dataset(changed(data, scalars=("site",)), 0)


def test_other_numbers_are_another_dataset(data, tmp_path):
    before = datasets.open_dataset(changed(data, records=None), 0).identity()
    table = tmp_path / "ages.csv"
    table.write_text(table.read_text().replace("27.5", "72.5"))
    assert datasets.open_dataset(changed(data, records=None), 0).identity() != before


def test_a_bids_folder_has_its_own_table_and_others_need_one(data, tmp_path):
    with pytest.raises(DataError, match="data.scalars is .*has no participants.tsv: give a table with data.table"):
        datasets.open_dataset(changed(data, table=None, records=None), 0)
    lines = "".join(f"subject {name}\t{age}\n" for name, age in AGES.items())
    (tmp_path / "scans/participants.tsv").write_text(f"participant_id\tage\n{lines}")
    dataset = datasets.open_dataset(changed(data, table=None, records=None), 0)
    assert age_of(dataset.train[0]) == batches.known(dataset, "train")["scalars"][0, 0]


def test_a_table_fixes_sides_and_leaves_the_others_where_they_were(data, tmp_path, capsys):
    plain = datasets.open_dataset(changed(data, scalars=None, table=None, records=None), 0)
    moved, *rest = (example.subject for example in plain.train)
    stays = plain.test[0].subject
    (tmp_path / "sides.csv").write_text(f"subject,split\n{moved},test\n{stays},test\nnobody,train\n")
    data = changed(data, scalars=None, table=None, split_table=str(tmp_path / "sides.csv"))
    fixed = datasets.open_dataset(changed(data, records=None), 0)
    told = capsys.readouterr().err
    assert (
        "1 of its subjects are not among the scans, such as nobody" in told and "7 of 9 subjects are not in it" in told
    )
    assert {moved, stays} <= {example.subject for example in fixed.test}
    assert {*rest} == {example.subject for example in fixed.train}
    assert fixed.identity() != plain.identity()
    make(data)
    prepared = datasets.open_dataset(data, 0)
    for side in SPLITS:
        assert [e.name for e in getattr(prepared, side)] == [e.name for e in getattr(fixed, side)]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"scalars": ("age", "age")}, "data.scalars is .*give different names of columns"),
        ({"scalars": None}, "data.table is .*but no column of it is asked for"),
        ({"scalars": ("weight",)}, "no column weight for data.scalars; its columns are subject, age, site"),
        ({"name": "synthetic", "root": None, "table": None}, "data.name=synthetic has no subjects"),
    ],
)
def test_what_cannot_be_had_is_refused(data, keys, line):
    with pytest.raises(DataError, match=line):
        datasets.open_dataset(changed(data, records=None) if not keys else changed(data, records=None, **keys), 0)
