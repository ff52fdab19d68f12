import pytest

from data_pipelines.aside import remove_unfinished, written_aside


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "folder/a.nii.gz"
    with written_aside(path) as aside:
        assert aside.name.endswith(".nii.gz") and aside.parent == path.parent
        aside.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_what_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("before")
    with pytest.raises(OSError, match="full"), written_aside(path) as aside:
        aside.write_text("half")
        raise OSError("full")
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_at_any_depth(tmp_path):
    for place in (tmp_path, tmp_path / "a"):
        place.mkdir(exist_ok=True)
        (place / ".unfinished-7-x.nii").touch()
    (tmp_path / "kept.nii").touch()
    remove_unfinished(tmp_path)
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["a", "kept.nii"]
