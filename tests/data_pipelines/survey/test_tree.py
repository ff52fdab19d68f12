import os

import pytest

from data_pipelines.errors import DataError
from data_pipelines.survey import tree
from data_pipelines.survey.tree import list_tree


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_a_folder_goes_by_its_own_name_where_it_has_one(tmp_path):
    touch(tmp_path, "b/x.nii", ".git/annex/y.nii", "b/.z.nii")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "c").symlink_to(".")
    found = list_tree(tmp_path)
    assert found.files == ("b/x.nii",)
    assert found.again == dict.fromkeys("ac", "a link to a folder that is gone through already")


def test_links_out_of_the_tree_are_followed_but_not_to_what_holds_it(tmp_path):
    touch(tmp_path, "elsewhere/p01/x.nii", "home/root/y.nii")
    root = tmp_path / "home/root"
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "up").symlink_to("..")
    (tmp_path / "elsewhere/p01/back").symlink_to(root)
    found = list_tree(root)
    assert found.files == ("link/p01/x.nii", "y.nii")
    assert found.again["up"] == "a link to a folder above data.root" and "link/p01/back" in found.again


def test_the_root_may_be_a_link(tmp_path):
    touch(tmp_path, "real/p01/x.nii")
    (tmp_path / "root").symlink_to("real")
    assert list_tree(tmp_path / "root").files == ("p01/x.nii",)


def test_what_is_not_there_is_said(tmp_path):
    touch(tmp_path, "x.nii")
    (tmp_path / "self.nii").symlink_to("self.nii")
    (tmp_path / "gone.nii").symlink_to("nowhere.nii")
    (tmp_path / "annexed.nii").symlink_to(".git/annex/objects/a/b")
    found = list_tree(tmp_path)
    assert found.files == ("x.nii",) and found.absent["gone.nii"] == "a broken link: to nowhere.nii, which is not there"
    assert found.absent["annexed.nii"].startswith("not fetched: `datalad get FILE`") and "self.nii" in found.absent


def test_a_folder_that_may_not_be_read_is_said(tmp_path, monkeypatch):
    touch(tmp_path, "p01/x.nii", "p02/x.nii")

    def scandir(folder):
        if folder.endswith("p02"):
            raise PermissionError(13, "Permission denied")
        return os.__dict__["scandir_"](folder)

    monkeypatch.setitem(os.__dict__, "scandir_", os.scandir)
    monkeypatch.setattr(tree.os, "scandir", scandir)
    found = list_tree(tmp_path)
    assert found.files == ("p01/x.nii",) and found.closed == {"p02": "cannot be read (Permission denied)"}
    with pytest.raises(DataError, match="Permission denied"):
        list_tree(tmp_path / "p02")
