"""Keeps a run's folder, which belongs to one model of one dataset.

`config.json` is the configuration in force, `data.json` says which data the model learned and how its samples become files.
"""

import contextlib
import errno
import itertools
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import filelock
from ml_collections import ConfigDict

from data_pipelines import contents
from medjax.errors import UserError

# Another value of these is another model; anything else (steps, mesh, batch size, sampler) may change between runs.
FIXED_KEYS = ("task", "seed", "model", "diffusion")

# Keys of `model` that came later, by task, with what a run had before there was the key.
LATER_KEYS = {
    "wavelet_diffusion": {"classes": 0, "label_dropout": 0.1},
    "vqgan": {"bottleneck": "codebook", "kl_weight": 1e-6},
}

WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)  # of a file system, such as NFS whose lock daemon is not running


@contextlib.contextmanager
def sole_use(workdir: pathlib.Path, part: str = "") -> Iterator[None]:
    """Makes the folder and holds it, or one folder in it: two jobs would write over each other's files.

    The lock is the operating system's, so it ends with the process that holds it, however that ends. Where a file system has
    no locks, a line on stderr says so and nothing is held.

    Args:
      part: the name of the folder in it that one job writes while others write beside it; by default what training writes.

    Raises:
      UserError: the folder cannot be made or written to, or another process holds it.
    """
    path = workdir / f".lock{part and '-'}{part}"
    lock = filelock.FileLock(path)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except filelock.Timeout:
        user = "job" if part else "run"
        raise UserError(
            f"{workdir / part} is in use by another {user}: wait for it to end or choose another --workdir"
        ) from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise UserError(f"--workdir={workdir} cannot be made or written to: {error.strerror}") from error
        print(f"{path} cannot be locked ({error.strerror}): let no other job write {workdir / part}", file=sys.stderr)
    try:
        yield
    finally:
        lock.release()


def open_workdir(workdir: pathlib.Path, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Checks that the folder is new or of the same model and data, then records `config` and `data` in it.

    Args:
      config: the whole configuration as plain data.
      data: {"identity": what makes the dataset this dataset, or None if nothing is known of it, "scans": the digest of what
        each file holds, by name, ...what sampling needs}.

    Raises:
      UserError: it is of another model; nothing in it was touched.
    """
    if any((workdir / "checkpoints").glob("*")) and not (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds checkpoints but no config.json: put it back or choose another --workdir")
    if (workdir / "config.json").exists():
        known = read_json(workdir / "config.json")
        check_same_model(workdir, known, config)
    if (workdir / "data.json").exists():
        known = read_json(workdir / "data.json")
        there, here = known.get("identity", {}), as_json(data["identity"])
        in_words = contents.difference(known, {"identity": here, "scans": data.get("scans")})
        difference = in_words or first_difference(there, here, "data")
        if there is not None and difference:
            raise UserError(f"{workdir} belongs to a model of other data: {difference}; choose another --workdir")
    write_json(workdir / "config.json", config)
    write_json(workdir / "data.json", data)


def recorded_data(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Reads data.json, what the run in this folder has recorded of its data; None of a new run."""
    path = workdir / "data.json"
    return read_json(path) if path.exists() else None


def check_same_model(workdir: pathlib.Path, known: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises UserError, naming the first key that differs, unless both configurations are of one model."""
    there, here = with_later_keys(known), with_later_keys(as_json(config))
    for key in FIXED_KEYS:
        difference = first_difference(there.get(key), here.get(key), key)
        if difference:
            raise UserError(f"{workdir} belongs to another model: {difference}; choose another --workdir")


def with_later_keys(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Completes a run's configuration by the keys that there were not when it was written, if it is so old."""
    task, model = config.get("task"), config.get("model")
    if not isinstance(task, str) or task not in LATER_KEYS or not isinstance(model, dict):
        return config
    return {**config, "model": LATER_KEYS[task] | model}


def first_difference(there: Any, here: Any, key: str) -> str | None:
    """Finds the first key, depth first, at which two trees of plain data differ, with both values; None where none does."""
    if isinstance(there, dict) and isinstance(here, dict):
        for name in sorted(there.keys() | here.keys()):
            difference = first_difference(there.get(name), here.get(name), f"{key}.{name}")
            if difference:
                return difference
        return None
    return None if there == here else f"{key} is {_said(there)} there and {_said(here)} here"


def _said(value: Any) -> str:
    """Puts a value from a file into one short line, whatever is in it."""
    return "".join(c if c.isprintable() else "?" for c in str(value))[:200]


def as_json(tree: Any) -> Any:
    """Returns the tree as it comes back from a JSON file: tuples are lists."""
    return json.loads(json.dumps(tree))


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Raises UserError if the file is missing or is not a JSON object."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: train first, with the same --workdir") from None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{path} cannot be read ({reason}): restore it or choose another --workdir") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: restore it or choose another --workdir")
    return content


def read_config(path: pathlib.Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a run's config.json, as far as `like` goes.

    Args:
      path: config.json of the run.
      like: plain data of the same keys and kinds of values. What the file lacks, an older one say, is taken from here,
        unless LATER_KEYS says what it was.

    Raises:
      UserError: the file is missing or damaged: a value is of another kind than in `like`.
    """
    known = read_json(path)
    if odd := _of_other_kind(known, as_json(like), ""):
        raise UserError(f"{path} is damaged ({odd}): restore it or choose another --workdir")
    return _completed(with_later_keys(known), as_json(like))


def fill(config: ConfigDict, known: Mapping[str, Any]) -> None:
    """Puts what a config.json holds into a configuration of the same keys, each value in the type that the key has there.

    What the configuration has not is added to it.

    Args:
      config: not locked; what is not in `known` stays as it is.
      known: as `read_config` returns it.
    """
    for name, value in known.items():
        there = config.get(name)
        if isinstance(there, ConfigDict) and isinstance(value, dict):
            fill(there, value)
        elif isinstance(value, dict):
            config[name] = ConfigDict()
            fill(config[name], value)
        else:
            config[name] = float(value) if isinstance(there, float) and value is not None else _with_tuples(value)


def _with_tuples(value: Any) -> Any:
    """Turns lists, which JSON makes of tuples, into tuples again."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _of_other_kind(there: Any, like: Any, key: str) -> str | None:
    """Finds the first key at which a tree of plain data has a value of another kind than `like`, where None goes with all."""
    if there is None or like is None:
        return None
    if isinstance(there, dict) and isinstance(like, dict):
        pairs = ((there[name], like[name], f"{key}.{name}".lstrip(".")) for name in sorted(there.keys() & like.keys()))
        return next((odd for pair in pairs if (odd := _of_other_kind(*pair))), None)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in (there, like))
    if not numbers and type(there) is not type(like):
        return f"{key or 'it'} is {_said(there)}, not as {_said(like)}"
    if isinstance(there, list) and like:
        pairs = ((value, like[0], key) for value in there)
        return next((odd for pair in pairs if (odd := _of_other_kind(*pair))), None)
    return None


def _completed(there: Any, like: Any) -> Any:
    """Adds to `there` the keys that only `like` has."""
    if not (isinstance(there, dict) and isinstance(like, dict)):
        return there
    return {name: _completed(there[name], like.get(name)) if name in there else like[name] for name in there | like}


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes `content`, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


@contextlib.contextmanager
def written_aside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a temporary path beside `path`, which takes its name when the block ends well and is removed if not."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix="".join(path.suffixes[-2:]), dir=path.parent)
    os.close(handle)
    aside = pathlib.Path(name)
    try:
        yield aside
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def free_name(path: pathlib.Path) -> pathlib.Path:
    """Returns the first of path.1, path.2, ... that does not exist."""
    return next(name for n in itertools.count(1) if not (name := path.with_name(f"{path.name}.{n}")).exists())
