"""Compares two sets of volumes by every metric; features are taken once and kept."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from data_pipelines.cache import default_folder
from medjax.console import say
from medjax.errors import UserError
from medjax.evaluation import scores as scoring
from medjax.evaluation.closest_pairs import MOST_PAIRS, closest_pairs
from medjax.evaluation.score import Score
from medjax.evaluation.volume_set import VolumeSet
from medjax.evaluation.volume_sets import Sets
from medjax.metrics.feature_sets import FeatureSet, load_features, save_features
from medjax.models.features import VERSION, Backbone


@dataclasses.dataclass(frozen=True)
class Found:
    """Holds what an evaluation has found.

    Attributes:
      scores: in the order in which they are shown.
      notes: what to know of them.
      copies: generated volumes flagged as copies; None where it cannot be told.
      pictures: caption to picture.
      more: for metrics.json.
    """

    scores: tuple[Score, ...]
    notes: tuple[str, ...]
    copies: int | None
    pictures: Mapping[str, Any]
    more: Mapping[str, Any]


def evaluate_sets(sets: Sets, backbones: list[Backbone], evaluate: ConfigDict, mesh: Mesh) -> Found:
    """Computes every metric of two sets of volumes."""
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if mesh.size > 1 else None
    scores, notes = [], [*sets.notes, *scoring.counted_notes(sets)]
    for n, backbone in enumerate(backbones):
        say(f"features of {backbone.name}")
        features = kept_features(backbone, evaluate.batch_size, sharding)
        found = scoring.featured(sets, features, backbone.name, evaluate.seed)
        own = scoring.feature_scores(found, evaluate.k)
        # The first backbone's numbers have the plain names.
        scores += (
            own
            if n == 0
            else [dataclasses.replace(s, name=f"{s.name}_{n + 1}", title=f"{s.title}, other features") for s in own]
        )
        if backbone.name.startswith("random"):
            notes.append("features are of random convolutions: they compare models here, not with published numbers")
    say("MS-SSIM of pairs")
    similarity, more_notes = scoring.similarity_scores(sets, evaluate.pairs, evaluate.seed, sharding)
    say("looking for copies")
    features = kept_features(backbones[0], evaluate.batch_size, sharding)
    copies, reasons = scoring.copies_of(sets, features, evaluate.false_alarms)
    trained = scoring.knows_training(sets)
    both, shown = (sets.generated, sets.train if trained else sets.real), {}
    if copies is not None:
        closest = closest_pairs(
            copies, *(each.volume for each in both), *(each.names for each in both), sets.generated.affine
        )
        of = f"generated and {'training' if trained else 'real'} volumes"
        shown[f"closest pairs of {of}, {min(MOST_PAIRS, copies.n_generated)} of {copies.n_generated}"] = closest
    return Found(
        scores=(
            scoring.copies_score(copies, sets),
            *scoring.flat_score(sets),
            *scores,
            *similarity,
            scoring.consistency_score(sets),
        ),
        notes=(*notes, *more_notes, *reasons),
        copies=None if copies is None else copies.copies,
        pictures=shown,
        more={
            "pairs": [] if copies is None else scoring.copies_told(copies, *both),
            "flat": [sets.generated.names[row] for row in sets.generated.flat],
        },
    )


def kept_features(
    backbone: Backbone, batch_size: int, sharding: NamedSharding | None
) -> Callable[[VolumeSet], np.ndarray]:
    """Returns a function from a set to its features, which are taken once and kept in the user's cache folder."""

    def features(volumes: VolumeSet) -> np.ndarray:
        digest = hashlib.sha256(f"{VERSION} {backbone.fingerprint} {volumes.digest}".encode()).hexdigest()[:24]
        path = default_folder() / "features" / f"{digest}.npz"
        try:
            known = load_features(path)
            if (known.fingerprint, len(known.values)) == (backbone.fingerprint, volumes.total):
                return known.values
        except (FileNotFoundError, ValueError):
            pass
        size = min(batch_size, volumes.total)
        parts = [backbone.features(batch, batch_size, sharding) for batch in volumes.batches(size)]
        values = np.concatenate(parts)[: volumes.total]
        save_features(path, FeatureSet(backbone.name, backbone.fingerprint, volumes.digest, values))
        return values

    return features


def check(evaluate: ConfigDict) -> None:
    """Raises UserError for a key of `evaluate` that cannot work."""
    for key, least in (("count", 2), ("pairs", 0), ("k", 1), ("batch_size", 1), ("reader_count", 1)):
        if evaluate[key] is not None and evaluate[key] < least:
            raise UserError(f"evaluate.{key} is {evaluate[key]}: use {least} or more")
    if not 0 < evaluate.false_alarms < 0.5:
        raise UserError(f"evaluate.false_alarms is {evaluate.false_alarms}: use a small share, such as 0.01")


def weights_of(evaluate: ConfigDict) -> list[str | None]:
    """Lists the files of backbones that are named, or None for the one that needs none."""
    return [name.strip() for name in evaluate.weights.split(",")] if evaluate.weights else [None]
