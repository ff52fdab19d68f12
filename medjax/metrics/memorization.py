"""Tells whether generated volumes are copies of training volumes: by how far the nearest stands out from the next ones.

A generated volume is compared with every training volume in two spaces: voxels (low-passed, mirrored in all eight ways,
brought into one pose, what all volumes share taken away, correlated) and features of a network (whitened, correlated).
A new subject resembles its nearest training subject a little more than the tenth next; a copy resembles one far more than
the others. That margin, of Fisher's z of the correlations, is the score. What a model does to all of its volumes, blur for
one, lowers all correlations alike and makes no copies.

How large the score gets without any copying is seen on volumes that no model has learned: held-out ones, or each training
volume against all others. `false_alarms` makes a threshold of that, and counts how often these volumes pass it.

Of a volume only a low-passed copy of at most 32^3 voxels and its features are looked at, so any number of volumes can be.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

from medjax.metrics.alignment import MIRRORS, low_passed, mirrored, posed
from medjax.metrics.false_alarms import Observed, limit_of, observed

FEWEST = 10  # volumes without copies that a threshold is taken from
MOST = 200  # of them that are compared, which tells the threshold to about a twentieth
# The rank behind the nearest that it must stand out from. 1 would miss the copies of a scan that is there twice; more, and
# subjects that are alike in threes (of a small site, a family) stand out by nature.
BEHIND = 2
PER_COMPONENT = 10  # training volumes a whitened component of the features; fewer fit the training volumes too well
MOST_ALIKE = 0.9999  # correlations above are rounding
CHUNK = 64  # low-passed volumes in work at once
UNLIKELY = 0.05  # as many false alarms as this or less are told


@dataclasses.dataclass(frozen=True)
class Space:
    """Holds what one way of comparing says.

    Attributes:
      name: "voxels" or "features".
      nearest: [m], which training volume each generated one is most like.
      correlations: [m], with that.
      scores: [m], by how much that stands out.
      null_scores: [k], the same of volumes without copies.
      threshold: score above which a volume counts as a copy; None without enough null scores.
      scale: scale of the distribution that was fitted; None likewise.
    """

    name: str
    nearest: np.ndarray
    correlations: np.ndarray
    scores: np.ndarray
    null_scores: np.ndarray
    threshold: float | None
    scale: float | None

    @property
    def flagged(self) -> np.ndarray:
        """Tells whose score is beyond the threshold, [m]; nobody's without one."""
        return np.zeros(len(self.scores), bool) if self.threshold is None else self.scores > self.threshold

    @property
    def excess(self) -> np.ndarray:
        """Tells how far beyond the threshold, which there must be, in units that compare between spaces: [m]."""
        return (self.scores - self.threshold) / self.scale


@dataclasses.dataclass(frozen=True)
class Copies:
    """Holds what the search for copies found.

    Attributes:
      copies: generated volumes flagged in any space; None, like all that follows from it, if not `calibrated`.
      share: share of the generated volumes that are flagged.
      low: lower end of the interval that holds the model's share 95 times in 100 (Clopper and Pearson), false alarms included.
      high: upper end of that interval.
      subjects_copied: different training subjects among the flagged volumes' nearest.
      subjects_share: share of all training subjects that these are.
      false_alarms: the share of new subjects that the threshold was set for, shared out equally between the spaces. What it is
        comes of a fit; `observed` tells what it came to.
      observed: count of the volumes without copies that are flagged all the same, each by the others' threshold, and the
        interval for the rate.
      null: description of the volumes without copies.
      calibrated: whether there are enough of them.
      spaces: results of each way of comparing.
      closest: [m], generated volumes, the most suspicious first.
      flagged: [m].
      nearest: [m], each one's training volume, in the space in which it stands out most.
      excess: [m], how far beyond the threshold there, in scales of what chance does; above 0 is flagged. If not `calibrated`, the
        correlations of voxels.
      n_generated: volumes.
      n_training: volumes.
      n_subjects: number of subjects of the training volumes.
      n_null: volumes.
      warnings: sentences on what the numbers do not say.
    """

    copies: int | None
    share: float | None
    low: float | None
    high: float | None
    subjects_copied: int | None
    subjects_share: float | None
    false_alarms: float
    observed: Observed | None
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
    """Holds volumes to compare.

    Attributes:
      low: [n, d, h, w] float32, low-passed volumes (`alignment.low_passed`).
      features: [n, f] of some network; None to compare voxels alone.
    """

    low: np.ndarray
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.low)

    def take(self, rows: np.ndarray) -> "Examined":
        """Picks some of them."""
        return Examined(self.low[rows], None if self.features is None else self.features[rows])


def examined(volumes: np.ndarray, features: np.ndarray | None = None) -> Examined:
    """Makes volumes [n, D, H, W, 1] in [-1, 1] that are all in memory ready to be compared."""
    return Examined(low_passed(volumes), features)


def find_copies(
    generated: Examined,
    training: Examined,
    held_out: Examined | None = None,
    subjects: Sequence[object] | None = None,
    false_alarms: float = 0.01,
) -> Copies:
    """Finds the generated volumes that are copies of training volumes, under any mirroring, small motion, noise and slight warps.

    Args:
      generated: m volumes.
      training: n volumes of the same shape.
      held_out: volumes of subjects that no training volume shows, to calibrate on. Without them, or with fewer than
        `FEWEST`, every training volume is compared with those of other subjects.
      subjects: [n], whose each training volume is; by default each is its own. Volumes of one subject count as one.
      false_alarms: the share of volumes of new subjects that may be called copies.

    Raises:
      ValueError: fewer than two volumes on a side, shapes that differ, a value that is not finite, or a rate that is no
        probability.
    """
    _check(generated, training, held_out, false_alarms)
    n = len(training)
    groups = (
        np.unique([str(name) for name in subjects], return_inverse=True)[1] if subjects is not None else np.arange(n)
    )
    if len(groups) != n:
        raise ValueError(f"{len(groups)} subjects of {n} training volumes: give one for each")
    n_subjects = int(groups.max()) + 1
    if n_subjects < 2:
        raise ValueError("all training volumes are of one subject: a copy cannot be told from a likeness")
    warnings = []
    alone = held_out is None or len(held_out) < FEWEST
    if alone and held_out is not None:
        warnings.append(f"only {len(held_out)} held-out volumes: calibrated among the training volumes instead")
    source = training if alone else held_out
    chosen = np.unique(np.linspace(0, len(source) - 1, min(MOST, len(source))).round().astype(int))
    null = source.take(chosen)
    own = groups[chosen] if alone else None
    calibrated = len(chosen) >= FEWEST and (not alone or n_subjects >= FEWEST)

    compared = {"voxels": _voxel_correlations(training.low, [generated.low, null.low])}
    if training.features is not None:
        compared["features"] = _feature_correlations(training.features, [generated.features, null.features])
    # At least one behind, or nothing would ever stand out: but for the own subject, which leaves one of two.
    rank = min(BEHIND, max(0 if alone else 1, (n_subjects - 1) // 2))
    rate = false_alarms / len(compared)
    spaces = []
    for name, (of_generated, of_null) in compared.items():
        scores, null_scores = margins(of_generated, groups, rank), margins(of_null, groups, rank, own)
        limit = limit_of(null_scores, rank, rate) if calibrated else None
        nearest = of_generated.argmax(axis=1)
        correlations = of_generated[np.arange(len(nearest)), nearest]
        beyond = (limit.threshold, limit.scale) if limit else (None, None)
        spaces.append(Space(name, nearest, correlations, scores, null_scores, *beyond))

    excess = np.stack([space.excess for space in spaces] if calibrated else [spaces[0].correlations])
    best = excess.argmax(axis=0)
    nearest = np.stack([space.nearest for space in spaces])[best, np.arange(excess.shape[1])]
    flagged = np.any([space.flagged for space in spaces], axis=0)
    found = dict.fromkeys(("copies", "share", "low", "high", "subjects_copied", "subjects_share", "observed"))
    if calibrated:
        copies, seen = int(flagged.sum()), observed([space.null_scores for space in spaces], rank, rate)
        interval = stats.binomtest(copies, len(flagged)).proportion_ci(method="exact")
        copied = len(np.unique(groups[nearest[flagged]]))
        found |= {"copies": copies, "share": copies / len(flagged), "low": float(interval.low)}
        found |= {"high": float(interval.high), "subjects_copied": copied, "subjects_share": copied / n_subjects}
        found["observed"] = seen
        if seen.chance(false_alarms) < UNLIKELY:
            warnings.append(
                f"{seen.count} of {len(chosen)} volumes that nothing can have copied stand out as copies do, more than the "
                f"{false_alarms:.1%} that evaluate.false_alarms asks for: scans that are there twice, or of one subject under "
                "two names, or groups of subjects that are much alike"
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
        if each.low.ndim != 4 or each.low.shape[1:] != training.low.shape[1:]:
            raise ValueError(f"{name} volumes {each.low.shape}, training {training.low.shape}: give [n, d, h, w]")
        if len(each) < 2 and name != "held-out":
            raise ValueError(f"{len(each)} {name} volume: two or more are needed to look for copies")
        if (each.features is None) != (training.features is None):
            raise ValueError("features of some volumes and not of others: give them for all, or for none")
        for values in (each.low, each.features):
            if values is not None and not all(np.isfinite(value).all() for value in values):
                raise ValueError(f"{name} volumes or features that are not finite")
            if values is not None and len(values) != len(each):
                raise ValueError(f"{len(values)} features of {len(each)} {name} volumes: give one for each")


def _voxel_correlations(training: np.ndarray, others: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Correlates `others` [k, d, h, w] each, in whichever mirroring is most alike, with the training volumes: [k, n] for each.

    In the pose of the training volumes' mean. What a volume has of that mean, and of uniform brightness, is taken away, so
    that what is correlated is how subjects differ. One copy of the training volumes is made, [n, d h w] float32.
    """
    template, posed_training = training.mean(axis=0), np.empty_like(training)
    for start in range(0, len(training), CHUNK):
        posed_training[start : start + CHUNK] = posed(training[start : start + CHUNK], template)
    mean = posed_training.mean(axis=0)
    rows = posed_training.reshape(len(training), -1)
    for start in range(0, len(rows), CHUNK):
        rows[start : start + CHUNK] = _residuals(posed_training[start : start + CHUNK], mean)
    found = []
    for volumes in others:
        alike = np.full((len(volumes), len(rows)), -1, np.float32)
        for start in range(0, len(volumes), CHUNK):
            low, part = volumes[start : start + CHUNK], alike[start : start + CHUNK]
            for mirror in MIRRORS:
                np.maximum(part, _residuals(posed(mirrored(low, mirror), template), mean) @ rows.T, out=part)
        found.append(alike)
    return found


def _residuals(volumes: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns what neither the mean's pattern nor a constant explains of each volume: [n, voxels] of unit length."""
    rows, pattern = volumes.reshape(len(volumes), -1), mean.ravel() - mean.mean()
    rows = rows - rows.mean(axis=1, keepdims=True)
    rows -= np.outer(rows @ pattern / (pattern @ pattern + 1e-12), pattern)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6)


def _feature_correlations(training: np.ndarray, others: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Correlates each of `others` [k, f] with the training features on their first principal components, whitened: [k, n]."""
    training = np.asarray(training, np.float64)
    mean, deviation = training.mean(axis=0), training.std(axis=0) + 1e-9
    _, values, directions = np.linalg.svd((training - mean) / deviation, full_matrices=False)
    kept = max(2, min(len(training) // PER_COMPONENT, int(np.sum(values > 1e-6 * values[0]))))

    def whitened(rows: np.ndarray) -> np.ndarray:
        rows = (rows - mean) / deviation @ directions[:kept].T / (values[:kept] + 1e-12)
        return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12)

    return [whitened(rows) @ whitened(training).T for rows in others]


def margins(correlations: np.ndarray, groups: np.ndarray, rank: int, own: np.ndarray | None = None) -> np.ndarray:
    """Computes Fisher's z of the nearest subject less that of the subject `rank` places behind, of [k, n]: [k].

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
