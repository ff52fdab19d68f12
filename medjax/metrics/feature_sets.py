"""Keeps features of many volumes, with what they are of, in a file for the next comparison."""

import dataclasses
import os
import pathlib
import zipfile

import numpy as np

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """Holds the features of many volumes, and what they are of.

    Attributes:
      backbone: the network's name.
      fingerprint: fingerprint of its weights; features of other weights are not comparable.
      source: description of the volumes, in words that change when they do.
      values: [n, f] float32.
    """

    backbone: str
    fingerprint: str
    source: str
    values: np.ndarray


def save_features(path: pathlib.Path, features: FeatureSet) -> None:
    """Writes one .npz file, aside and then renamed. All statistics are taken from the rows, so these are what is kept."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with aside.open("wb") as file:
        np.savez(
            file,
            format=FORMAT,
            n=len(features.values),
            backbone=features.backbone,
            fingerprint=features.fingerprint,
            source=features.source,
            values=np.asarray(features.values, np.float32),
        )
    aside.replace(path)


def load_features(path: pathlib.Path) -> FeatureSet:
    """Reads what `save_features` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is another kind of file, or a damaged one.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            if int(file["format"]) != FORMAT or len(file["values"]) != int(file["n"]) or file["values"].ndim != 2:
                raise ValueError
            return FeatureSet(*(str(file[key]) for key in ("backbone", "fingerprint", "source")), file["values"])
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} holds no features of volumes: delete it, and they are taken again") from error


def comparable(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Checks features [n, f] and [m, f] and returns them in float64.

    Raises:
      ValueError: fewer than two rows on a side, features of different lengths, or a value that is not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(*a.shape[:1], *b.shape[:1]) < 2 or not a.shape[1]:
        raise ValueError(f"features {a.shape} and {b.shape}: give [n, f] and [m, f] with n and m of 2 or more")
    for rows in (a, b):
        if bad := int(np.sum(~np.isfinite(rows).all(axis=1))):
            raise ValueError(f"{bad} of {len(rows)} rows of features are not finite")
    return a, b
