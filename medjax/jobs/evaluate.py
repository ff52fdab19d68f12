"""`--mode=evaluate`: how good, how varied and how new the generated volumes are, every number beside that of real ones."""

import contextlib
import dataclasses
import pathlib
import platform
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from medjax.console import say
from medjax.errors import UserError
from medjax.evaluation import scores as scoring
from medjax.evaluation.compare import check, evaluate_sets, weights_of
from medjax.evaluation.exhibits import consistency, histograms, pictures, run_facts, training_curves
from medjax.evaluation.reader_study import write_reader_study
from medjax.evaluation.report import Evaluation, write_report
from medjax.evaluation.score import Score
from medjax.evaluation.volume_sets import Sets, sets_of_folders, sets_of_run
from medjax.models.features import load_backbone
from medjax.runtime.mesh import make_mesh
from medjax.runtime.workdir import free_name, read_json, sole_use, write_json

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


def new_folder(folder: pathlib.Path) -> pathlib.Path:
    """The folder, new; what was there is renamed."""
    if folder.exists():
        aside = free_name(folder)
        folder.rename(aside)
        say(f"{folder} was there: moved to {aside}")
    folder.mkdir(parents=True)
    return folder


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
