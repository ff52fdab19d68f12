"""`--mode=evaluate`: how good, how varied and how new the generated volumes are, every number beside that of real ones."""

import contextlib
import dataclasses
import hashlib
import pathlib
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from data_pipelines.cache import default_folder
from medjax.errors import UserError
from medjax.evaluation import scores as scoring
from medjax.evaluation.closest_pairs import MOST_PAIRS, closest_pairs
from medjax.evaluation.plots import Curve
from medjax.evaluation.reader_study import write_reader_study
from medjax.evaluation.report import Evaluation, write_report
from medjax.evaluation.score import Score
from medjax.evaluation.volume_set import VolumeSet
from medjax.evaluation.volume_sets import Sets, sets_of_folders, sets_of_run
from medjax.metrics.consistency import adjacent_correlations, mean_by_slice
from medjax.metrics.feature_sets import FeatureSet, load_features, save_features
from medjax.models.features import VERSION, Backbone, load_backbone
from medjax.pictures import montage
from medjax.planning.forecast import say
from medjax.runtime.mesh import make_mesh
from medjax.runtime.metrics_log import read_rows
from medjax.runtime.workdir import free_name, read_json, sole_use, write_json

BINS = 64
PICTURES_A_ROW, MOST_PICTURES = 4, 16
AXES = ("first axis", "second axis", "third axis")
TRAINING_CURVES = ("loss", "val_loss")
# What metrics.json and the result call themselves, beside the numbers by name.
KEYS = ("fid", "kid", "precision", "recall")


def run(
    config: ConfigDict, workdir: pathlib.Path, real: str | None = None, generated: str | None = None
) -> dict[str, Any]:
    """Compares WORKDIR/samples with the volumes kept from the model, or two folders; writes WORKDIR/evaluation.

    Args:
      config: of which `evaluate` counts, and of a run `data.root` where the data have moved.
      workdir: of a run; with two folders any, only its evaluation is written.
      real, generated: folders of NIfTI files; both or none.

    Returns:
      The numbers by name, among them `copies`, how many generated volumes are copies of training volumes, null where that cannot
      be told, and `flat`, how many are of one value everywhere.

    Raises:
      UserError, DataError: what was asked for cannot work, or another job writes the same folders.
    """
    with contextlib.ExitStack() as held:
        return _run(config, workdir, real, generated, held)


def _run(
    config: ConfigDict, workdir: pathlib.Path, real: str | None, generated: str | None, held: contextlib.ExitStack
) -> dict[str, Any]:
    if jax.process_count() > 1:
        raise UserError("evaluate runs in one process, on all its devices: start it by itself")
    if (real is None) != (generated is None):
        raise UserError(f"--{'real' if real is None else 'generated'} is missing: give both folders, or none for a run")
    check(config.evaluate)
    mesh = make_mesh(config.mesh)
    backbones = [load_backbone(file) for file in weights_of(config.evaluate)]
    if real is not None:
        sets = sets_of_folders(pathlib.Path(real), pathlib.Path(generated), config.evaluate)
        title, facts = "Two folders compared", {"real": real, "generated": generated}
    else:
        read_json(workdir / "config.json")  # what is no run is told before anything is made in it
        with sole_use(workdir, "samples"):  # half of them may be there while another job draws
            sets = sets_of_run(config, workdir)
        title, facts = f"Samples of {workdir.name}", run_facts(workdir)
    held.enter_context(sole_use(workdir, "evaluation"))
    cases = reader_study(sets, config.evaluate)
    found = evaluate_sets(sets, backbones, config.evaluate, mesh)
    facts |= {
        "real volumes": str(sets.real.total),
        "generated volumes": str(sets.generated.total),
        "training volumes": "not known" if sets.train is None else str(sets.train.total),
        "features": ", ".join(f"{each.name} ({each.fingerprint})" for each in backbones),
        "date": time.strftime("%Y-%m-%d"),
        "versions": f"Python {platform.python_version()}, jax {jax.__version__}",
    }
    evaluation = Evaluation(
        title=title,
        subtitle=f"{sets.generated.compared} generated volumes against {sets.real.compared} real ones",
        facts=facts,
        scores=found.scores,
        notes=found.notes,
        histograms=histograms(sets),
        consistency=consistency(sets),
        training=training_curves(workdir) if real is None else (),
        pictures=pictures(sets) | found.pictures,
    )
    folder = new_folder(workdir / "evaluation")
    write_json(folder / "metrics.json", {"scores": [dataclasses.asdict(score) for score in found.scores]} | found.more)
    write_report(folder / "report.html", evaluation)
    say(table(found.scores, found.notes))
    named = scoring.by_name(found.scores)
    return {
        "n_real": sets.real.compared,
        "n_generated": sets.generated.compared,
        **{name: named[name].value for name in KEYS},
        "ms_ssim_generated": named["ms_ssim"].value if "ms_ssim" in named else None,
        "ms_ssim_real": named["ms_ssim"].baseline if "ms_ssim" in named else None,
        "copies": found.copies,
        "flat": len(sets.generated.flat),
        "features": backbones[0].name,
        "reader_cases": cases,
        "metrics": str(folder / "metrics.json"),
        "report": str(folder / "report.html"),
    }


@dataclasses.dataclass(frozen=True)
class Found:
    """What an evaluation has found.

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
    """Every metric of two sets of volumes."""
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


def reader_study(sets: Sets, evaluate: ConfigDict) -> int | None:
    """Writes the blinded set that `evaluate.reader_study` asks for; returns how many volumes are in it."""
    if not evaluate.reader_study:
        return None
    named = [
        [(name, volume[..., 0], each.affine) for name, volume in zip(each.names, each.volumes, strict=False)]
        for each in (sets.real, sets.generated)
    ]
    folder = pathlib.Path(evaluate.reader_study).expanduser()
    count = write_reader_study(folder, *named, evaluate.seed, evaluate.reader_count)
    say(f"{count} blinded volumes for readers: {folder / 'readers'}; the key is in {folder / 'sealed'}")
    return count


def kept_features(
    backbone: Backbone, batch_size: int, sharding: NamedSharding | None
) -> Callable[[VolumeSet], np.ndarray]:
    """A function to a set's features, which are taken once and kept in the user's cache folder."""

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
    """The files of backbones that are named, or None for the one that needs none."""
    return [name.strip() for name in evaluate.weights.split(",")] if evaluate.weights else [None]


def new_folder(folder: pathlib.Path) -> pathlib.Path:
    """The folder, new; what was there is renamed."""
    if folder.exists():
        aside = free_name(folder)
        folder.rename(aside)
        say(f"{folder} was there: moved to {aside}")
    folder.mkdir(parents=True)
    return folder


def run_facts(workdir: pathlib.Path) -> dict[str, str]:
    """What made the samples."""
    settings = read_json(workdir / "samples" / "settings.json")
    return {"run": str(workdir), "checkpoint": f"step {settings.get('step')}"} | {
        f"sample.{key}": str(settings[key]) for key in ("sampler", "steps", "seed", "guidance") if key in settings
    }


def histograms(sets: Sets) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Densities of intensities in [-1, 1] without the outermost bins, where background and clipped voxels lie."""
    edges = np.linspace(-1, 1, BINS + 1)
    found = {}
    for name, each in (("real", sets.real), ("generated", sets.generated)):
        counts = np.histogram(each.volumes, edges)[0][1:-1]
        found[name] = (edges[1:-1], counts / max(1, counts.sum()) / (edges[1] - edges[0]))
    return found


def consistency(sets: Sets) -> dict[str, dict[str, np.ndarray]]:
    """The mean correlation of neighbouring slices along each axis."""
    both = {"real": sets.real, "generated": sets.generated}
    return {
        name: {of: mean_by_slice(adjacent_correlations(each.volumes, axis)) for of, each in both.items()}
        for axis, name in enumerate(AXES)
    }


def training_curves(workdir: pathlib.Path) -> tuple[Curve, ...]:
    """The losses of metrics.jsonl."""
    rows = read_rows(workdir / "metrics.jsonl")
    curves = []
    for name in TRAINING_CURVES:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), (int, float))]
        if points:
            curves.append(Curve(name, *zip(*points, strict=True)))
    return tuple(curves)


def pictures(sets: Sets) -> dict[str, Any]:
    """Montages of both sets."""
    found = {}
    for name, each in (("real", sets.real), ("generated", sets.generated)):
        shown = each.volumes[:MOST_PICTURES, ..., 0]
        rows = [
            (" ".join(each.names[start : start + PICTURES_A_ROW])[:120], shown[start : start + PICTURES_A_ROW])
            for start in range(0, len(shown), PICTURES_A_ROW)
        ]
        found[f"{name} volumes"] = montage(rows, each.affine)
    return found


def table(scores: tuple[Score, ...], notes: tuple[str, ...]) -> str:
    """For the terminal."""
    lines = []
    for score in scores:
        value = "-" if score.value is None else f"{score.value:.4g}"
        if score.low is not None:
            value += f" ({score.low:.4g} to {score.high:.4g})"
        elif score.error is not None:
            value += f" (standard error {score.error:.2g})"
        if score.p_value is not None:
            value += f" (p = {score.p_value:.3g} if both were of one distribution)"
        baseline = "" if score.baseline is None else f"; real: {score.baseline:.4g}"
        lines.append(f"{score.title}: {value}, best {score.direction}{baseline}")
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])
