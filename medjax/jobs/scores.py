"""The numbers of an evaluation: every metric with its direction, its n and the same between real and real."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import NamedSharding

from medjax.errors import UserError
from medjax.jobs.volume_sets import Sets, VolumeSet
from medjax.metrics.consistency import adjacent_correlations
from medjax.metrics.frechet import frechet_distance
from medjax.metrics.frechet_interval import estimate_frechet
from medjax.metrics.kernel import kernel_distance
from medjax.metrics.memorization import Copies, Examined, find_copies
from medjax.metrics.ms_ssim_pairs import PairSimilarity, mean_ms_ssim
from medjax.metrics.neighbours import neighbours
from medjax.metrics.score import Score

PLAIN_NAMES = ("fid", "kid", "precision", "recall", "density", "coverage")  # of the numbers on one set of features
FEW = 50  # volumes; below, the Frechet distance and the neighbours are mostly chance


@dataclasses.dataclass(frozen=True)
class Featured:
    """Sets of volumes as features of one backbone.

    Attributes:
      backbone: its name.
      real, generated: [n, f].
      others: real volumes that take the generated ones' place for the baseline.
      of_baseline: the real ones that these are compared with: all, or the other half of them.
      baseline_of: what is compared there, in words.
    """

    backbone: str
    real: np.ndarray
    generated: np.ndarray
    others: np.ndarray
    of_baseline: np.ndarray
    baseline_of: str


def featured(sets: Sets, features: Callable[[VolumeSet], np.ndarray], backbone: str, seed: int) -> Featured:
    """The features of all sets, each volume's taken once.

    The baseline compares the real volumes with as many training volumes as there are generated ones, or, where no training
    volumes are known, random halves of the real ones.
    """
    real, generated = features(sets.real), features(sets.generated)
    rng = np.random.default_rng(seed)
    if sets.train is not None and len(sets.train) >= 2:
        rows = rng.permutation(len(sets.train))[: len(sets.generated)]
        others = features(sets.train)[rows]
        words = f"{len(others)} training volumes against the {len(real)} real ones"
        return Featured(backbone, real, generated, others, real, words)
    rows = rng.permutation(len(real))
    half = len(real) // 2
    words = (
        f"random halves of the real volumes, {half} against {len(real) - half}; fewer volumes lie further apart, so hold the "
        "distance of halves of both sets against it"
    )
    return Featured(backbone, real, generated, real[rows[:half]], real[rows[half:]], words)


def feature_scores(found: Featured, k: int) -> list[Score]:
    """Frechet distance, kernel distance, precision, recall, density and coverage in one feature space.

    Raises:
      UserError: a set has fewer than two volumes.
    """
    try:
        frechet, kernel = estimate_frechet(found.real, found.generated), kernel_distance(found.real, found.generated)
        near = neighbours(found.real, found.generated, k)
    except ValueError as error:
        raise UserError(f"evaluation: {error}") from error
    baseline = {}
    if min(len(found.others), len(found.of_baseline)) >= 2:
        baseline = {
            "fid": frechet_distance(found.of_baseline, found.others),
            "kid": kernel_distance(found.of_baseline, found.others).value,
        } | dataclasses.asdict(neighbours(found.of_baseline, found.others, k))
    counts = {"n_real": len(found.real), "n_generated": len(found.generated)}
    of = f"Features: {found.backbone}."
    words = {"baseline_of": found.baseline_of} if baseline else {}

    def score(name: str, title: str, value: float | None, direction: str, how: str, **more: float | None) -> Score:
        told = {"baseline": baseline.get(name)} | words | more
        return Score(
            name=name, title=title, value=value, direction=direction, unit="", **counts, **told, how=f"{how} {of}"
        )

    half = "" if frechet.half is None else f" Halves of both sets: {frechet.half:.4g}, so n matters by the difference."
    line = (
        ""
        if frechet.extrapolated or frechet.infinite is None
        else " n is too small for this line: read the interval alone."
    )
    scores = [
        score("fid", "Frechet distance", frechet.value, "less", f"Of Gaussians fitted to both sets, in float64.{half}"),
        score(
            "fid_infinity",
            "Frechet distance, n to infinity",
            frechet.infinite,
            "less",
            f"Extrapolated from n/2 and n (arXiv 1911.07023); 95 % interval for the distance of the distributions.{line}",
            low=frechet.low,
            high=frechet.high,
            baseline=None,
        ),
        score(
            "kid",
            "Kernel distance",
            kernel.value,
            "less",
            "MMD^2, cubic kernel, unbiased (KID, arXiv 1801.01401).",
            error=kernel.error,
        ),
        score(
            "precision",
            "Precision",
            near.precision,
            "more",
            f"Generated volumes among real ones; {near.k} neighbours (arXiv 1904.06991).",
        ),
        score(
            "recall",
            "Recall",
            near.recall,
            "more",
            f"Real volumes among generated ones; {near.k} neighbours (arXiv 1904.06991).",
        ),
        score("density", "Density", near.density, "more", f"{near.k} neighbours (arXiv 2002.09797)."),
        score(
            "coverage",
            "Coverage",
            near.coverage,
            "more",
            f"Real volumes with a generated one nearby; {near.k} neighbours (arXiv 2002.09797).",
        ),
    ]
    return [score if score.baseline is not None else dataclasses.replace(score, baseline_of="") for score in scores]


def similarity_scores(
    sets: Sets, pairs: int, seed: int, sharding: NamedSharding | None
) -> tuple[list[Score], list[str]]:
    """MS-SSIM between pairs of generated and between pairs of real volumes, and what is to be noted of it.

    Args:
      pairs: of each set, at random; 0: all there are.
    """
    found: dict[str, PairSimilarity] = {}
    for name, each in (("generated", sets.generated), ("real", sets.real)):
        try:
            found[name] = mean_ms_ssim(each.volumes, pairs or None, seed, sharding)
        except ValueError as error:
            return [], [f"no MS-SSIM: {error}"]
    generated, real = found["generated"], found["real"]
    counted = [f"{each.pairs} {'(all)' if each.exact else 'random'} {name} pairs" for name, each in found.items()]
    full = "" if generated.scales == 5 else f", {generated.scales} of its 5 scales: the volumes are too small for more"
    score = Score(
        name="ms_ssim",
        title="MS-SSIM between generated volumes",
        value=generated.mean,
        direction="like real",
        unit="",
        n_real=real.n,
        n_generated=generated.n,
        error=generated.error,
        baseline=real.mean,
        baseline_of="pairs of real volumes" + ("" if real.error is None else f" (standard error {real.error:.2g})"),
        how=f"{' and '.join(counted)}{full}. Higher than real: less varied than real.",
    )
    notes = [f"MS-SSIM uses {generated.scales} of 5 scales: it does not compare with published numbers"] if full else []
    return [score], notes


def copies_of(sets: Sets, features: Callable[[VolumeSet], np.ndarray], false_alarms: float) -> Copies:
    """Which generated volumes are copies of training volumes, or of real ones where what was trained on is not known.

    Raises:
      UserError: nothing can be said of these sets.
    """
    known = sets.train is not None and len(sets.train) >= 2
    training = sets.train if known else sets.real
    examined = [Examined(each.volumes, features(each)) for each in (sets.generated, training)]
    held_out = Examined(sets.real.volumes, features(sets.real)) if known else None
    try:
        return find_copies(*examined, held_out, training.subjects, false_alarms)
    except ValueError as error:
        raise UserError(f"evaluation: {error}") from error


def copies_score(found: Copies, trained: bool) -> Score:
    """How many generated volumes are flagged.

    Args:
      trained: whether they were compared with what the model learned from.
    """
    of = "training" if trained else "real"
    how = f"Generated volumes far more like one {of} volume than like the next ones, in voxels or features. "
    if found.calibrated:
        how += (
            f"{found.share:.1%} of them (95 % interval {found.low:.1%} to {found.high:.1%}); {found.subjects_copied} of "
            f"{found.n_subjects} {of} subjects. The threshold lets {found.false_alarms:.1%} of new subjects be flagged, by "
            f"{found.null}: {found.null_flagged} of {found.n_null} are."
        )
    else:
        how += "Not counted: see the notes."
    return Score(
        name="copies",
        title="Copies",
        value=found.copies,
        direction="less",
        unit="volumes",
        n_real=found.n_training,
        n_generated=found.n_generated,
        low=None if found.low is None else found.low * found.n_generated,
        high=None if found.high is None else found.high * found.n_generated,
        baseline=None if found.copies is None else found.null_flagged / found.n_null * found.n_generated,
        baseline_of="" if found.copies is None else f"as many volumes of {found.null}",
        how=how,
    )


def copies_told(found: Copies, generated: VolumeSet, training: VolumeSet) -> list[dict]:
    """For metrics.json: every generated volume with its nearest, the most suspicious first."""
    return [
        {
            "generated": generated.names[row],
            "nearest": training.names[found.nearest[row]],
            "excess": float(found.excess[row]),
            "flagged": bool(found.flagged[row]),
        }
        for row in found.closest
    ]


def consistency_score(sets: Sets) -> Score:
    """The mean correlation of neighbouring slices, along the three axes."""
    means = {}
    for name, each in (("generated", sets.generated), ("real", sets.real)):
        rows = [np.nanmean(adjacent_correlations(each.volumes, axis)) for axis in range(3)]
        means[name] = float(np.mean(rows))
    return Score(
        name="slice_consistency",
        title="Correlation of neighbouring slices",
        value=finite(means["generated"]),
        direction="like real",
        unit="",
        n_real=len(sets.real),
        n_generated=len(sets.generated),
        baseline=finite(means["real"]),
        baseline_of="real volumes",
        how="Pearson's, mean over slices and the three axes. Less than real: slices do not fit; more: smeared.",
    )


def counted_notes(sets: Sets) -> list[str]:
    """What is to be said of the numbers of volumes."""
    few = [
        f"{len(each)} {name}" for name, each in (("real", sets.real), ("generated", sets.generated)) if len(each) < FEW
    ]
    return (
        [f"only {' and '.join(few)} volumes: distances are biased upwards and neighbours mostly chance"] if few else []
    )


def by_name(scores: Sequence[Score]) -> dict[str, Score]:
    """For looking one up."""
    return {score.name: score for score in scores}


def finite(value: float) -> float | None:
    """None in place of what is not a number."""
    return value if math.isfinite(value) else None
