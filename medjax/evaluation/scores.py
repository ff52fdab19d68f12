"""Computes the numbers of an evaluation: every metric with its direction, its n and the same between real and real."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jax.sharding import NamedSharding
from scipy import stats

from medjax.errors import UserError
from medjax.evaluation.score import Score
from medjax.evaluation.volume_set import VolumeSet, listed
from medjax.evaluation.volume_sets import Sets
from medjax.metrics.consistency import adjacent_correlations
from medjax.metrics.frechet import frechet_distance
from medjax.metrics.frechet_interval import estimate_frechet
from medjax.metrics.kernel import kernel_distance
from medjax.metrics.memorization import Copies, Examined, find_copies
from medjax.metrics.ms_ssim_pairs import PairSimilarity, mean_ms_ssim
from medjax.metrics.neighbours import neighbours

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
    """Takes the features of the volumes that are compared.

    The baseline compares the real volumes with as many training volumes as there are generated ones, or, where no training
    volumes are known, random halves of the real ones.

    Args:
      features: of all volumes of a set, [n, f]; each volume's taken once.
    """
    real, generated = (features(each)[: each.compared] for each in (sets.real, sets.generated))
    rng = np.random.default_rng(seed)
    if sets.train is not None and sets.train.total >= 2:
        rows = rng.permutation(sets.train.total)[: len(generated)]
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
    """Computes Frechet and kernel distance, precision, recall, density and coverage in one feature space.

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
        }
        near_real = neighbours(found.of_baseline, found.others, near.k)
        if near_real.k == near.k:  # shares of balls that reach to another neighbour do not compare
            baseline |= dataclasses.asdict(near_real)
    counts = {"n_real": len(found.real), "n_generated": len(found.generated)}
    of = f"Features: {found.backbone}."
    words = {"baseline_of": found.baseline_of} if baseline else {}

    def score(name: str, title: str, value: float | None, direction: str, how: str, **more: float | None) -> Score:
        told = {"baseline": baseline.get(name)} | words | more
        return Score(
            name=name, title=title, value=value, direction=direction, unit="", **counts, **told, how=f"{how} {of}"
        )

    half = "" if frechet.half is None else f" Halves of both sets: {frechet.half:.4g}, so n matters by the difference."
    shuffled = (
        f" Were both sets of one distribution, volumes shuffled between them would lie as far apart: {frechet.shuffled:.4g} on "
        f"average, and this far or further with probability {frechet.p_value:.3g} (permutation test)."
    )
    line = (
        "Extrapolated from n/2 and n (arXiv 1911.07023); 95 % interval for the distance of the distributions."
        if frechet.extrapolated
        else "Not told: it takes four volumes on either side for each direction in which the features vary, or no interval would "
        "hold. The permutation test of the Frechet distance above holds for any n."
    )
    scores = [
        score(
            "fid",
            "Frechet distance",
            frechet.value,
            "less",
            f"Of Gaussians fitted to both sets, in float64.{half}{shuffled}",
            p_value=frechet.p_value,
        ),
        score(
            "fid_infinity",
            "Frechet distance, n to infinity",
            frechet.infinite,
            "less",
            line,
            low=frechet.low,
            high=frechet.high,
            baseline=None,
        ),
        score(
            "kid",
            "Kernel distance",
            kernel.value,
            "less",
            "MMD^2, cubic kernel, unbiased (KID, arXiv 1801.01401). A kind of volumes that only one set has counts from its "
            "second volume on.",
            low=kernel.low,
            high=kernel.high,
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
    """Computes MS-SSIM between pairs of generated and between pairs of real volumes, and notes what is to be noted.

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
    low = high = None
    if generated.error is not None:
        # Of few volumes the error itself is uncertain: 1.96 of it would hold the mean 87 times in 100 with four of them.
        reach = float(stats.t.ppf(0.975, generated.n - 1)) * generated.error
        low, high = max(0.0, generated.mean - reach), min(1.0, generated.mean + reach)
    full = "" if generated.scales == 5 else f", {generated.scales} of its 5 scales: the volumes are too small for more"
    score = Score(
        name="ms_ssim",
        title="MS-SSIM between generated volumes",
        value=generated.mean,
        direction="like real",
        unit="",
        n_real=real.n,
        n_generated=generated.n,
        low=low,
        high=high,
        error=generated.error,
        baseline=real.mean,
        baseline_of="pairs of real volumes" + ("" if real.error is None else f" (standard error {real.error:.2g})"),
        how=f"{' and '.join(counted)}{full}. Higher than real: less varied than real.",
    )
    notes = [f"MS-SSIM uses {generated.scales} of 5 scales: it does not compare with published numbers"] if full else []
    return [score], notes


def copies_of(
    sets: Sets, features: Callable[[VolumeSet], np.ndarray], false_alarms: float
) -> tuple[Copies | None, tuple[str, ...]]:
    """Finds the generated volumes that are copies of training volumes, or of real ones where those are not known.

    All generated and all training volumes take part, however many are compared otherwise.

    Returns:
      What was found, and what is to be noted of it; None and the reason where nothing can be said of these sets.
    """
    trained = knows_training(sets)
    training = sets.train if trained else sets.real
    examined = [Examined(each.low, features(each)) for each in (sets.generated, training)]
    held_out = Examined(sets.real.low, features(sets.real)) if trained else None
    try:
        found = find_copies(*examined, held_out, training.subjects, false_alarms)
    except ValueError as error:
        return None, (f"copies were not looked for: {error}",)
    return found, found.warnings


def knows_training(sets: Sets) -> bool:
    """Tells whether generated volumes can be held against what the model has learned from."""
    return sets.train is not None and sets.train.total >= 2


def copies_score(found: Copies | None, sets: Sets) -> Score:
    """Tells how many generated volumes are flagged, and how many volumes are that nothing can have copied."""
    trained = knows_training(sets)
    of = "training" if trained else "real"
    how = f"Generated volumes far more like one {of} volume than like the next ones, in voxels or features. "
    counts = {"n_real": (sets.train if trained else sets.real).total, "n_generated": sets.generated.total}
    plain = Score(name="copies", title="Copies", value=None, direction="less", unit="volumes", **counts, how=how)
    if found is None or not found.calibrated:
        return dataclasses.replace(plain, how=f"{how}Not counted: see the notes.")
    seen = found.observed
    return dataclasses.replace(
        plain,
        value=found.copies,
        low=found.low * found.n_generated,
        high=found.high * found.n_generated,
        baseline=seen.count / found.n_null * found.n_generated,
        baseline_of=f"as many volumes of {found.null}",
        how=(
            f"{how}{found.share:.1%} of them (95 % interval {found.low:.1%} to {found.high:.1%}); {found.subjects_copied} of "
            f"{found.n_subjects} {of} subjects. False alarms: {seen.count} of {found.n_null} ({found.null}) are flagged, each by "
            f"the threshold that the others give; the 95 % interval for a new subject is {seen.low:.1%} to {seen.high:.1%} "
            f"(asked for: {found.false_alarms:.1%})."
        ),
    )


def flat_score(sets: Sets) -> list[Score]:
    """Tells how many generated volumes are of one value everywhere; nothing where none is."""
    flat = [sets.generated.names[row] for row in sets.generated.flat]
    if not flat:
        return []
    return [
        Score(
            name="flat",
            title="Volumes of one value",
            value=len(flat),
            direction="less",
            unit="volumes",
            n_real=None,
            n_generated=sets.generated.total,
            how=f"They show nothing: {listed(flat)}. All other numbers count them as they are, but the correlation of slices, "
            "which they have not.",
        )
    ]


def copies_told(found: Copies, generated: VolumeSet, training: VolumeSet) -> list[dict]:
    """Lists, for metrics.json, every generated volume with its nearest, the most suspicious first."""
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
    """Takes the mean correlation of neighbouring slices, along the three axes."""
    means = {}
    for name, each in (("generated", sets.generated), ("real", sets.real)):
        rows = [adjacent_correlations(each.volumes, axis) for axis in range(3)]
        known = [row[np.isfinite(row)] for row in rows]
        means[name] = float(np.mean([row.mean() for row in known])) if all(len(row) for row in known) else None
    return Score(
        name="slice_consistency",
        title="Correlation of neighbouring slices",
        value=means["generated"],
        direction="like real",
        unit="",
        n_real=sets.real.compared,
        n_generated=sets.generated.compared,
        baseline=means["real"],
        baseline_of="real volumes",
        how="Pearson's, mean over slices that are not of one value and the three axes. Less than real: slices do not fit; more: "
        "smeared.",
    )


def counted_notes(sets: Sets) -> list[str]:
    """Tells what the numbers of volumes mean for the numbers below."""
    both = (("real", sets.real), ("generated", sets.generated))
    few = [f"{each.compared} {name}" for name, each in both if each.compared < FEW]
    notes = (
        [f"only {' and '.join(few)} volumes: distances are biased upwards and neighbours mostly chance"] if few else []
    )
    limited = [f"{each.compared} of {each.total} {name}" for name, each in both if each.compared < each.total]
    if limited:
        notes.append(
            f"{' and '.join(limited)} volumes are compared (evaluate.count); copies are looked for among all of them"
        )
    subjects = len(set(sets.real.subjects[: sets.real.compared]))
    if subjects < sets.real.compared:
        whose = f"{subjects} subject{'s' * (subjects != 1)}"
        notes.append(
            f"the {sets.real.compared} real volumes are of {whose}: intervals, standard errors and p-values take volumes for "
            "independent and promise too much"
        )
    if sets.generated.flat:
        notes.append(
            f"{len(sets.generated.flat)} of {sets.generated.total} generated volumes are of one value everywhere: the model has "
            "collapsed there"
        )
    return notes


def by_name(scores: Sequence[Score]) -> dict[str, Score]:
    """For looking one up."""
    return {score.name: score for score in scores}
