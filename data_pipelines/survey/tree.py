"""Lists the files under a folder: links followed, each folder once, and what is not there said."""

import dataclasses
import os
from pathlib import Path

from data_pipelines.errors import DataError

ANNEX = "annex/objects"  # in what a link of git-annex or DataLad points to
NOT_FETCHED = "not fetched"  # what reasons begin with where content is elsewhere
FETCH_ANNEX = "`datalad get FILE` or `git annex get FILE` fetches it"


@dataclasses.dataclass(frozen=True)
class Tree:
    """Names what lies under a folder, hidden files and folders left aside.

    Attributes:
      files: paths below the root, with slashes, sorted.
      absent: links to files that are not there, with the reason.
      closed: files and folders that cannot be looked into, with the reason.
      again: linked folders that are not gone through, because they are elsewhere or hold the root, with the reason.
    """

    files: tuple[str, ...]
    absent: dict[str, str]
    closed: dict[str, str]
    again: dict[str, str]


def list_tree(root: Path) -> Tree:
    """Goes through a folder. Real folders come before linked ones, so that a folder has its own name where it has one.

    Raises:
      DataError: there is no such folder, it may not be read, or it is a file.
    """
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data.root={root}: {found}; give the folder that holds the scans")
    tree = Tree((), {}, {}, {})
    files: list[str] = []
    seen = {_identity(os.stat(root))}
    linked: list[tuple[str, str]] = []
    _go_through(str(root), "", seen, files, linked, tree)
    if "." in tree.closed:
        raise DataError(f"data.root={root}: {tree.closed['.']}; mend its permissions")
    above = {_identity(os.stat(folder)) for folder in root.resolve().parents}
    while linked:
        path, name = linked.pop(0)
        identity = _identity(os.stat(path))
        if identity in above:
            tree.again[name] = "a link to a folder above data.root"
        elif identity in seen:
            tree.again[name] = "a link to a folder that is gone through already"
        else:
            seen.add(identity)
            _go_through(path, f"{name}/", seen, files, linked, tree)
    return dataclasses.replace(tree, files=tuple(sorted(files)))


def _go_through(
    top: str, prefix: str, seen: set[tuple[int, int]], files: list[str], linked: list[tuple[str, str]], tree: Tree
) -> None:
    """Adds what lies under `top`, whose path below the root is `prefix`; linked folders are put off."""
    folders = [(top, prefix)]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            tree.closed[prefix.rstrip("/") or "."] = f"cannot be read ({error.strerror or error})"
            continue
        for entry in found:
            if entry.name.startswith("."):
                continue
            name = f"{prefix}{entry.name}"
            try:
                status = entry.stat()
            except OSError as error:
                _note_absent(entry, name, error, tree)
                continue
            if not entry.is_dir():
                if entry.is_file():
                    files.append(name)
            elif entry.is_symlink():
                linked.append((entry.path, name))
            elif _identity(status) not in seen:  # a folder that is mounted twice is its own link
                seen.add(_identity(status))
                folders.append((entry.path, f"{name}/"))


def _note_absent(entry: os.DirEntry, name: str, error: OSError, tree: Tree) -> None:
    if not entry.is_symlink():
        tree.closed[name] = f"cannot be read ({error.strerror or error})"
        return
    target = os.readlink(entry.path)
    if ANNEX in target.replace("\\", "/"):
        tree.absent[name] = f"{NOT_FETCHED}: {FETCH_ANNEX}"
    else:
        tree.absent[name] = f"a broken link: to {target}, which is not there"


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
