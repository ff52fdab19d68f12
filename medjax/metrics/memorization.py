"""Are generated volumes copies of training volumes? By how far the nearest training volume stands out from the next ones.

A generated volume is compared with every training volume in two spaces: voxels (low-passed, mirrored in all eight ways,
brought into one pose, what all volumes share taken away, correlated) and features of a network (whitened, correlated).
A new subject resembles its nearest training subject a little more than the tenth next; a copy resembles one far more than
the others. That margin, of Fisher's z of the correlations, is the score. What a model does to all of its volumes, blur for
one, lowers all correlations alike and makes no copies.

How large the score gets without any copying is seen on volumes that no model has learned: held-out ones, or each training
volume against all others. It is a difference of extremes of many correlations, so a Gumbel distribution is fitted, by its
median and quartiles: duplicates among these volumes, up to a quarter, do no harm. The threshold is set so that a new such
volume is beyond it with the probability asked for, the error of the fit included.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from medjax.metrics.alignment import MIRRORS, low_passed, mirrored, posed

FEWEST = 10  # volumes without copies that a threshold is taken from
MOST = 200  # of them that are compared, which tells the threshold to about a twentieth
BEHIND = 10  # the rank behind the nearest that it must stand out from; lower where there are few subjects
PER_COMPONENT = 10  # training volumes a whitened component of the features; fewer fit the training volumes too well
MOST_ALIKE = 0.9999  # correlations above are rounding
SIMULATIONS = 4000


@dataclasses.dataclass(frozen=True)
class Space:
    """What one way of comparing says.

    Attributes:
      name: "voxels" or "features".
      nearest: [m], which training volume each generated one is most like.
      correlations: [m], with that.
      scores: [m], by how much that stands out.
      null_scores: [k], the same of volumes without copies.
      threshold: of scores; None without enough of these.
      threshold_error: its standard error, from the fit.
      scale: of the Gumbel distribution, likewise.
    """

    name: str
    nearest: np.ndarray
    correlations: np.ndarray
    scores: np.ndarray
    null_scores: np.ndarray
    threshold: float | None
    threshold_error: float | None
    scale: float | None

    @property
    def flagged(self) -> np.ndarray:
        """[m]: whose score is beyond the threshold; none without one."""
        return np.zeros(len(self.scores), bool) if self.threshold is None else self.scores > self.threshold

    @property
    def excess(self) -> np.ndarray:
        """[m]: how far beyond the threshold, which there must be, in units that compare between spaces."""
        return (self.scores - self.threshold) / self.scale


@dataclasses.dataclass(frozen=True)
class Copies:
    """Attributes:
    copies: generated volumes flagged in any space; None, like all that follows from it, if not `calibrated`.
    share: of the generated volumes.
    low: of the interval that holds the model's share 95 times in 100 (Clopper and Pearson 1934); `false_alarms` of it is chance.
    high: the same.
    subjects_copied: different training subjects among the flagged volumes' nearest.
    subjects_share: of all training subjects.
    false_alarms: the probability for a volume of a new subject to be flagged, shared out equally between the spaces.
    null_flagged: volumes without copies that are flagged all the same, of `n_null`.
    null: which these are, in words.
    calibrated: whether there are enough of them.
    spaces: what each says.
    closest: [m], generated volumes, the most suspicious first.
    flagged: [m].
    nearest: [m], each one's training volume, in the space in which it stands out most.
    excess: [m], how far beyond the threshold there, in scales of what chance does; above 0 is flagged. If not `calibrated`, the
      correlations of voxels.
    n_generated: volumes.
    n_training: volumes.
    n_subjects: of the training volumes.
    n_null: volumes.
    warnings: what the numbers do not say, in sentences.
    """

    copies: int | None
    share: float | None
    low: float | None
    high: float | None
    subjects_copied: int | None
    subjects_share: float | None
    false_alarms: float
    null_flagged: int | None
    null: str
    calibrated: bool
    spaces: tuple[Space, ...]
    closest: np.ndarray
    flagged: np.ndarray
    nearest: np.ndarray
    excess: np.ndarray
    n_generated: int
    n_training: int
    n_subjects: int
    n_null: int
    warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Examined:
    """Volumes to compare.

    Attributes:
      volumes: [n, D, H, W, 1] float32 in [-1, 1].
      features: [n, f] of some network; None to compare voxels alone.
    """

    volumes: np.ndarray
    features: np.ndarray | None = None


def find_copies(
    generated: Examined,
    training: Examined,
    held_out: Examined | None = None,
    subjects: Sequence[object] | None = None,
    false_alarms: float = 0.01,
) -> Copies:
    """Which generated volumes are copies of training volumes, under any mirroring, small motion, noise and slight warps.

    Args:
      generated: m volumes.
      training: n volumes of the same shape.
      held_out: volumes of subjects that no training volume shows, to calibrate on. Without them, or with fewer than
        `FEWEST`, every training volume is compared with those of other subjects.
      subjects: [n], whose each training volume is; by default each is its own. Volumes of one subject count as one.
      false_alarms: the probability to call a volume of a new subject a copy.

    Raises:
      ValueError: fewer than two volumes on a side, shapes that differ, a value that is not finite, or a rate that is no
        probability.
    """
    _check(generated, training, held_out, false_alarms)
    n = len(training.volumes)
    groups = (
        np.unique([str(name) for name in subjects], return_inverse=True)[1] if subjects is not None else np.arange(n)
    )
    if len(groups) != n:
        raise ValueError(f"{len(groups)} subjects of {n} training volumes: give one for each")
    n_subjects = int(groups.max()) + 1
    if n_subjects < 2:
        raise ValueError("all training volumes are of one subject: a copy cannot be told from a likeness")
    warnings = []
    alone = held_out is None or len(held_out.volumes) < FEWEST
    if alone and held_out is not None:
        warnings.append(f"only {len(held_out.volumes)} held-out volumes: calibrated among the training volumes instead")
    source = training if alone else held_out
    chosen = np.unique(np.linspace(0, len(source.volumes) - 1, min(MOST, len(source.volumes))).round().astype(int))
    null = Examined(source.volumes[chosen], None if source.features is None else source.features[chosen])
    own = groups[chosen] if alone else None
    calibrated = len(chosen) >= FEWEST and (not alone or n_subjects >= FEWEST)

    compared = {"voxels": _voxel_correlations(training.volumes, [generated.volumes, null.volumes])}
    if training.features is not None:
        compared["features"] = _feature_correlations(training.features, [generated.features, null.features])
    spaces = []
    for name, (of_generated, of_null) in compared.items():
        # At least one behind, or nothing would ever stand out: but for the own subject, which leaves one of two.
        rank = min(BEHIND, max(0 if alone else 1, (n_subjects - 1) // 2))
        scores, null_scores = _scores(of_generated, groups, rank), _scores(of_null, groups, rank, own)
        rate = false_alarms / len(compared)
        threshold, error, scale = _threshold(null_scores, rate) if calibrated else (None, None, None)
        nearest = of_generated.argmax(axis=1)
        correlations = of_generated[np.arange(len(nearest)), nearest]
        spaces.append(Space(name, nearest, correlations, scores, null_scores, threshold, error, scale))

    excess = np.stack([space.excess for space in spaces] if calibrated else [spaces[0].correlations])
    best = excess.argmax(axis=0)
    nearest = np.stack([space.nearest for space in spaces])[best, np.arange(excess.shape[1])]
    flagged = np.any([space.flagged for space in spaces], axis=0)
    found = dict.fromkeys(("copies", "share", "low", "high", "subjects_copied", "subjects_share", "null_flagged"))
    if calibrated:
        copies, beyond = int(flagged.sum()), np.any([s.null_scores > s.threshold for s in spaces], axis=0)
        interval = stats.binomtest(copies, len(flagged)).proportion_ci(method="exact")
        copied = len(np.unique(groups[nearest[flagged]]))
        found |= {"copies": copies, "share": copies / len(flagged), "low": float(interval.low)}
        found |= {"high": float(interval.high), "subjects_copied": copied, "subjects_share": copied / n_subjects}
        found["null_flagged"] = int(beyond.sum())
        if stats.binom.sf(beyond.sum() - 1, len(beyond), false_alarms) < 1e-3:
            warnings.append(
                f"{beyond.sum()} of {len(beyond)} volumes that nothing can have copied stand out as copies do: scans that "
                "are there twice, or of one subject under two names"
            )
    else:
        warnings.append(
            f"{len(chosen)} volumes of {n_subjects} training subjects to calibrate on, {FEWEST} are needed: copies not counted"
        )
    return Copies(
        **found,
        false_alarms=false_alarms,
        null="each training volume against those of other subjects" if alone else "held-out volumes",
        calibrated=calibrated,
        spaces=tuple(spaces),
        closest=np.argsort(-excess.max(axis=0), kind="stable"),
        flagged=flagged,
        nearest=nearest,
        excess=excess.max(axis=0),
        n_generated=len(flagged),
        n_training=n,
        n_subjects=n_subjects,
        n_null=len(chosen),
        warnings=tuple(warnings),
    )


def _check(generated: Examined, training: Examined, held_out: Examined | None, false_alarms: float) -> None:
    if not 0 < false_alarms < 0.5:
        raise ValueError(f"a false-alarm rate of {false_alarms}: give one between 0 and 0.5")
    sets = {"generated": generated, "training": training} | ({} if held_out is None else {"held-out": held_out})
    for name, each in sets.items():
        if each.volumes.ndim != 5 or each.volumes.shape[1:] != training.volumes.shape[1:] or each.volumes.shape[4] != 1:
            raise ValueError(
                f"{name} volumes {each.volumes.shape}, training {training.volumes.shape}: give [n, D, H, W, 1]"
            )
        if len(each.volumes) < 2 and name != "held-out":
            raise ValueError(f"{len(each.volumes)} {name} volume: two or more are needed to look for copies")
        if (each.features is None) != (training.features is None):
            raise ValueError("features of some volumes and not of others: give them for all, or for none")
        for values in (each.volumes, each.features):
            if values is not None and not all(np.isfinite(value).all() for value in values):
                raise ValueError(f"{name} volumes or features that are not finite")
            if values is not None and len(values) != len(each.volumes):
                raise ValueError(f"{len(values)} features of {len(each.volumes)} {name} volumes: give one for each")


def _voxel_correlations(training: np.ndarray, others: Sequence[np.ndarray]) -> list[np.ndarray]:
    """[k, n] for each of `others` [k, D, H, W, 1]: the highest correlation of any mirroring of each with training volumes.

    In the pose of the training volumes' mean. What a volume has of that mean, and of uniform brightness, is taken away, so
    that what is correlated is how subjects differ.
    """
    low = low_passed(training)
    template = low.mean(axis=0)
    in_pose = posed(low, template)
    mean = in_pose.mean(axis=0)
    rows = _residuals(in_pose, mean)
    found = []
    for volumes in others:
        low = low_passed(volumes)
        alike = np.full((len(low), len(rows)), -1, np.float32)
        for mirror in MIRRORS:
            np.maximum(alike, _residuals(posed(mirrored(low, mirror), template), mean) @ rows.T, out=alike)
        found.append(alike)
    return found


def _residuals(volumes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[n, voxels] of unit length: what neither the mean's pattern nor a constant explains of each volume."""
    rows, pattern = volumes.reshape(len(volumes), -1), mean.ravel() - mean.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows -= np.outer(rows @ pattern / (pattern @ pattern + 1e-12), pattern)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)


def _feature_correlations(training: np.ndarray, others: Sequence[np.ndarray]) -> list[np.ndarray]:
    """[k, n] for each of `others` [k, f], along the training features' first principal components, whitened."""
    training = np.asarray(training, np.float64)
    mean, deviation = training.mean(axis=0), training.std(axis=0) + 1e-9
    _, values, directions = np.linalg.svd((training - mean) / deviation, full_matrices=False)
    kept = max(2, min(len(training) // PER_COMPONENT, int(np.sum(values > 1e-6 * values[0]))))

    def whitened(rows: np.ndarray) -> np.ndarray:
        rows = (rows - mean) / deviation @ directions[:kept].T / (values[:kept] + 1e-12)
        return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)

    return [whitened(rows) @ whitened(training).T for rows in others]


def _scores(correlations: np.ndarray, groups: np.ndarray, rank: int, own: np.ndarray | None = None) -> np.ndarray:
    """[k]: Fisher's z of the nearest subject less that of the subject `rank` places behind, of [k, n].

    Args:
      groups: [n], subjects from 0 without gaps.
      own: [k], the subject of each row, which it is not compared with.
    """
    z = np.arctanh(np.clip(correlations, -MOST_ALIKE, MOST_ALIKE)).astype(np.float64)
    of_subjects = np.full((len(z), groups.max() + 1), -np.inf)
    np.maximum.at(of_subjects.T, groups, z.T)
    if own is not None:
        of_subjects[np.arange(len(z)), own] = -np.inf
    ranked = np.sort(of_subjects, axis=1)
    return ranked[:, -1] - ranked[:, -1 - rank]


def _threshold(scores: np.ndarray, rate: float) -> tuple[float, float, float]:
    """What a further score is beyond with probability `rate`, its standard error, and the scale of the fit."""
    location, scale = _gumbel(scores)
    scale = max(float(scale), 1e-6)
    factor, error = _scales_away(len(scores), rate)
    return float(location + factor * scale), error * scale, scale


@functools.cache
def _scales_away(k: int, rate: float) -> tuple[float, float]:
    """How many scales from the location, both fitted to k scores, the threshold is, and its standard error in scales.

    In these units a fit errs alike whatever location and scale are sought, so that it can be simulated.
    """
    draws = -np.log(-np.log(np.random.default_rng(0).random((SIMULATIONS, k))))
    locations, scales = _gumbel(draws)

    def too_often(factor: float) -> float:
        return float(np.mean(-np.expm1(-np.exp(-(locations + factor * scales))))) - rate

    factor = float(optimize.brentq(too_often, 0, 1e4))
    return factor, float(np.std(locations + factor * scales))


def _gumbel(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The location and scale of Gumbel's distribution with the quartiles of scores [..., k]."""
    low, middle, high = np.percentile(scores, [25, 50, 75], axis=-1)
    scale = (high - low) / np.log(np.log(4) / np.log(4 / 3))
    return middle + scale * np.log(np.log(2)), scale
